"""Who sits where: from what is asked for and what there is to a layout, or a clear refusal."""

from __future__ import annotations

import os
from collections.abc import Mapping

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sim.job import Layout

GPU_SEATS = 8
"""Seats of an actor that has a GPU to itself: small per-client work is what leaves a GPU idle."""


def available(gpus: int) -> dict[str, float]:
    """What this machine has, where no cluster says it."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpus)}


def arrange(x: Experiment, there: Mapping[str, float], cohort: int) -> Layout:
    """The layout for a cohort on these resources (`CPU`, `GPU`). Raises ConfigError when even one actor does not fit."""
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    cpu, gpu = x.resources.cpu_per_client, x.resources.gpu_per_client
    if cpu > cpus:
        raise ConfigError(f"resources.cpu_per_client: expected at most {cpus:g} (the CPUs there are), got {cpu:g}; lower it")
    if gpu is not None and gpu > gpus:
        raise ConfigError(f"resources.gpu_per_client: expected at most {gpus:g} (the GPUs there are), got {gpu:g}; lower it")
    on_gpu = gpus > 0 if gpu is None else gpu > 0
    slots = _slots(cpus, cpu, gpus, (gpu or 0.0) if on_gpu else 0.0)
    placement = x.placement
    if placement == "auto":
        several = isinstance(x.seats, int) and x.seats > 1
        placement = "pooled" if on_gpu or several or cohort > slots else "one_per_client"
    if on_gpu and (placement == "pooled" or gpu is None):
        slots, gpu = min(int(gpus), int(cpus // cpu)), 1.0
    seats = _seats(x, placement, on_gpu, cohort, slots)
    return Layout(
        placement=placement,
        actors=1 if x.resources.backend == "inline" else min(slots, -(-cohort // seats)),
        seats=seats,
        threads=x.resources.threads,
        device="cuda" if on_gpu else "cpu",
        cpu=cpu,
        gpu=float(gpu or 0.0) if on_gpu else 0.0,
    )


def _slots(cpus: float, cpu: float, gpus: float, gpu: float) -> int:
    """How many actors fit. A fraction of a GPU does not spill over to the next one."""
    by_cpu = int(cpus / cpu + 1e-9)
    if not gpu:
        return by_cpu
    by_gpu = int(gpus) * int(1 / gpu + 1e-9) if gpu <= 1 else int(gpus / gpu)
    return min(by_cpu, by_gpu)


def _seats(x: Experiment, placement: str, on_gpu: bool, cohort: int, slots: int) -> int:
    if isinstance(x.seats, int):
        return min(x.seats, cohort)
    if placement == "pooled" and on_gpu:
        return max(1, min(GPU_SEATS, -(-cohort // slots)))
    return 1
