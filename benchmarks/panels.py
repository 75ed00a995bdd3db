"""What each benchmark's picture shows: its figures to panels, which `pictures.py` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from benchmarks.pictures import Goal, Panel, Series

MORE = 1.05
"""What more seats must give to be worth it."""


def seats(rates: Mapping[int, Mapping[int, Sequence[float]]]) -> list[Panel]:
    """rates[batch][K]: training tokens per second of each repetition."""
    lines = [_spread(f"batch {batch}", by_seats) for batch, by_seats in rates.items()]
    ratios = [
        _spread(f"batch {batch}", {k: [r / b for r, b in zip(own, by_seats[1], strict=True)] for k, own in by_seats.items()})
        for batch, by_seats in rates.items()
    ]
    rings = Series(
        f"enough: no larger K gives {MORE - 1:.0%} more",
        [enough(own) for own in rates.values()], [median(own[enough(own)]) for own in rates.values()], drawn="points",
    )  # fmt: skip
    x = "seats K (clients in one forward)"
    return [
        Panel("What one thread trains", x, "training tokens/s", [*lines, rings], log="x"),
        Panel("Against one seat", x, "tokens/s over that of K = 1", ratios, (Goal(1.0, "K = 1"),), log="x"),
    ]


def enough(by_seats: Mapping[int, Sequence[float]]) -> int:
    """The smallest K from which no larger one gives so much more."""
    best = {k: max(median(own) for larger, own in by_seats.items() if larger >= k) for k in by_seats}
    return next(k for k, own in by_seats.items() if best[k] <= MORE * median(own))


def throughput(rates: Mapping[str, Sequence[float]], goal: Goal | None = None) -> list[Panel]:
    """rates[contestant]: training tokens per second of each repetition; goal: what to reach, in the same unit."""
    bar = _spread("median, and the range of the repetitions", rates)
    return [Panel("Training throughput", "training tokens/s", "", [bar], (goal,) if goal else (), bars=True, form=",.0f")]


def overhead(costs: Mapping[str, Mapping[str, float]], goals: Mapping[str, float]) -> list[Panel]:
    """costs[work][contestant]: ms per client; goals[work]: ms per client."""
    return [
        Panel(
            work, "ms per client (logarithmic)", "", [Series("measured", list(own), list(own.values()))],
            (Goal(goals[work], f"goal: {goals[work]:g} ms"),) if work in goals else (), bars=True, log="x",
        )
        for work, own in costs.items()
    ]  # fmt: skip


def experts(ratios: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Panel]:
    """ratios[frozen or trained][dtype][shape]: how long the best of transformers' forwards takes over ours."""
    return [
        Panel(
            f"{kind} experts, forward and backward", "time of the best of transformers' over ours", "",
            [Series(dtype, list(own), list(own.values())) for dtype, own in by_dtype.items()],
            (Goal(1.0, "as fast"), *((Goal(1.3, "goal: 1.3"),) if kind == "frozen" else ())), bars=True, form=".2f",
        )
        for kind, by_dtype in ratios.items()
    ]  # fmt: skip


def scale(
    population: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
    actors: Mapping[int, Sequence[float]] | None = None,
    **_: Any,
) -> list[Panel]:
    """population[clients]: seconds of every round, and MiB of `driver` and `actors` after each; actors[count]: efficiencies."""
    panels = []
    if population:
        each = {clients: quantiles(own["seconds"], n=4) for clients, own in population.items()}
        low, middle, high = zip(*each.values(), strict=True)
        spread = Series("median and quartiles of the rounds", list(each), middle, low, high)
        panels.append(Panel("A round of one cohort, from ever more clients", "clients", "seconds per round", [spread], log="x"))
        for kind, title in (("driver", "Memory of the driver"), ("actors", "Memory of an actor (the mean of all)")):
            lines = [
                Series(f"{clients:,} clients", list(range(len(own[kind]))), own[kind], drawn="line")
                for clients, own in population.items()
            ]
            panels.append(Panel(title, "round", "own memory, MiB", lines))
    if actors:
        line, goal = _spread("efficiency = speed-up / actors", actors), Goal(0.9, "goal: 0.9")
        panels.append(Panel("The same rounds with more actors", "actors", "efficiency", [line], (goal,)))
    return panels


def gpu(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """rows: method, clients, rate and plain (tokens per second), peak, predicted and plain_peak (bytes; 0 where not known)."""
    if not rows:
        return []
    names = [f"{r['method']}, {r['clients']} clients" for r in rows]
    speed = [Series("flexray", names, [r["rate"] for r in rows]), Series("plain LoRA", names, [r["plain"] for r in rows])]
    panels = [Panel("Training throughput", "training tokens/s", "", speed, bars=True, form=",.0f")]
    if all(r["peak"] for r in rows):
        kinds = {"measured peak": "peak", "planned": "predicted", "plain LoRA's peak": "plain_peak"}
        size = [Series(name, names, [r[key] / 1e9 for r in rows]) for name, key in kinds.items()]
        panels.append(Panel("Memory of the GPU", "GB", "", size, bars=True, form=".1f"))
    return panels


def _spread(name: str, values: Mapping[Any, Sequence[float]]) -> Series:
    """Medians with their range."""
    each = list(values.values())
    return Series(name, list(values), [median(v) for v in each], [min(v) for v in each], [max(v) for v in each])
