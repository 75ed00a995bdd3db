"""Who sits where: from what is asked for, what there is and what a turn costs to a layout, or a clear refusal."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, inf

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sim import schedule
from flexray.sim.job import Layout
from flexray.sim.planning.measure import Turn

GPU_SEATS = 8
"""Seats of an actor on a GPU where nothing could be measured: small per-client work is what leaves a GPU idle."""
GAIN = 1.1
"""Rounds must be shorter by this factor before several clients share a forward."""
NEAR = 1.03
"""Of seat numbers whose rounds are as short as the shortest, but for this factor, the smallest is taken."""
THREAD_FLOPS = 32e6
"""Of one matrix product: with less for each, threads wait for one another longer than they help."""


def available(gpus: int) -> dict[str, float]:
    """What this machine has, where no cluster says it."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpus)}


def arrange(x: Experiment, there: Mapping[str, float], cohort: int, *, seats: int | None = None, flops: float = inf) -> Layout:
    """The layout for a cohort on these resources (`CPU`, `GPU`, `nodes`). Raises ConfigError when even one actor does not fit.

    seats: what to take for `auto`, None where nobody knows; flops: of one of a step's matrix products.
    """
    layout = _on_ray(x, there, cohort, seats, flops)
    # One process has the seats and threads that actors would have: so it gives the same bits.
    return replace(layout, actors=1) if x.resources.backend == "inline" else layout


def most_seats(x: Experiment, there: Mapping[str, float], cohort: int) -> int:
    """Up to how many seats may be worth it: with more some actors would stay empty; 1 where there is nothing to choose."""
    layout = _on_ray(x, there, cohort, 1, inf)
    if x.seats != "auto" or layout.placement == "one_per_client" or x.algorithm.pooled:
        return 1
    return max(1, cohort // layout.actors)


def choose(cost: Callable[[int], Turn], steps: Sequence[int], actors: int, most: int) -> tuple[int, float]:
    """The seats for the shortest round, and by what factor it is shorter than with 1. steps: of each of its clients.

    cost: a turn in so many seats. One unless the gain is clear, and no more than it takes.
    """
    seconds = {seats: round_seconds(cost, steps, actors, seats) for seats in range(1, most + 1)}
    shortest = min(seconds.values())
    if seconds[1] < GAIN * shortest:
        return 1, 1.0
    chosen = next(seats for seats, s in seconds.items() if s <= NEAR * shortest)
    return chosen, seconds[1] / seconds[chosen]


def round_seconds(cost: Callable[[int], Turn], steps: Sequence[int], actors: int, seats: int) -> float:
    """How long the actors train: slices in their order, each at whoever is free first. A group lasts as long as its longest client."""
    busy = [0.0] * actors
    for part in schedule.slices(schedule.groups(range(len(steps)), seats)):
        heapq.heapreplace(busy, busy[0] + sum(cost(len(group)).seconds(max(steps[i] for i in group)) for group in part))
    return max(busy)


def _on_ray(x: Experiment, there: Mapping[str, float], cohort: int, seats: int | None, flops: float) -> Layout:
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    cpu, gpu = x.resources.cpu_per_client, x.resources.gpu_per_client
    if cpu > cpus:
        raise ConfigError(f"resources.cpu_per_client: expected at most {cpus:g} (the CPUs there are), got {cpu:g}; lower it")
    if gpu is not None and gpu > min(gpus, 1):
        most = f"{gpus:g} (the GPUs there are)" if gpus < 1 else "1 (a client is on one GPU)"
        raise ConfigError(f"resources.gpu_per_client: expected at most {most}, got {gpu:g}; lower it")
    on_gpu = gpus > 0 if gpu is None else gpu > 0
    slots = _slots(cpus, cpu, gpus, (gpu or 0.0) if on_gpu else 0.0)
    placement = x.placement
    if placement == "auto":
        several = isinstance(x.seats, int) and x.seats > 1
        placement = "pooled" if on_gpu or several or cohort > slots else "one_per_client"
    if on_gpu and (placement == "pooled" or gpu is None):
        slots, gpu = min(int(gpus), int(cpus // cpu)), 1.0
    seats = _seats(x, placement, on_gpu, cohort, slots, seats)
    actors = min(slots, -(-cohort // seats))
    asked = x.resources.threads
    threads = _threads(cpus, actors, there.get("nodes", 1), flops) if asked == "auto" else asked
    return Layout(
        placement=placement,
        actors=actors,
        seats=seats,
        threads=threads,
        device="cuda" if on_gpu else "cpu",
        cpu=max(cpu, threads) if asked == "auto" else cpu,
        gpu=float(gpu or 0.0) if on_gpu else 0.0,
    )


def _slots(cpus: float, cpu: float, gpus: float, gpu: float) -> int:
    """How many actors fit. A fraction of a GPU does not spill over to the next one."""
    by_cpu = int(cpus / cpu + 1e-9)
    return min(by_cpu, int(gpus) * int(1 / gpu + 1e-9)) if gpu else by_cpu


def _seats(x: Experiment, placement: str, on_gpu: bool, cohort: int, slots: int, found: int | None) -> int:
    if isinstance(x.seats, int):
        return min(x.seats, cohort)
    if placement == "one_per_client":
        return 1
    guess = GPU_SEATS if on_gpu else 1
    return max(1, min(found or guess, cohort // slots))


def _threads(cpus: float, actors: int, nodes: float, flops: float) -> int:
    """As many as there are CPUs for each actor of a node, while each has enough to do."""
    own = int(cpus / nodes / ceil(actors / nodes) + 1e-9)
    return max(1, int(min(own, flops / THREAD_FLOPS)))
