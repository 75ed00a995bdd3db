"""What a sweep tells about its keys: the best settings, what each key does by itself, and what pairs of keys do together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean, stdev
from typing import Any

from flexray.sweeping.spec import Point

LEVELS = 8
"""A key with more values than this is shown by the thirds of their order."""


@dataclass(frozen=True)
class Setting:
    """One setting with the values that came of it, by trial: one for each seed. sd: of a sample; None for one seed."""

    point: Point
    trials: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Level:
    """One value of a key, or a third of them: the mean and sd over its settings' means."""

    label: str
    mean: float
    sd: float | None
    settings: int


@dataclass(frozen=True)
class Effect:
    """What a key does. share: of the variance of all settings' means, what lies between its levels (η²); an upper bound where keys
    were drawn, as few settings scatter."""

    key: str
    levels: tuple[Level, ...]
    share: float


@dataclass(frozen=True)
class Interaction:
    """What two keys do together beyond the sum of both. share: of the same variance; cells: mean by the two levels."""

    keys: tuple[str, str]
    share: float
    cells: Mapping[tuple[str, str], float]


def settings(trials: Sequence[tuple[int, Point, float]], less: bool) -> list[Setting]:
    """From finished trials, the best first; trials that differ in the seed alone are one setting."""
    found: dict[str, list[tuple[int, Point, float]]] = {}
    for trial in trials:
        point = {key: value for key, value in trial[1].items() if key != "seed"}
        found.setdefault(json.dumps(point, default=str), []).append((trial[0], point, trial[2]))
    made = [Setting(same[0][1], tuple(n for n, _, _ in same), tuple(v for _, _, v in same)) for same in found.values()]
    return sorted(made, key=lambda s: s.mean if less else -s.mean)


def effects(found: Sequence[Setting]) -> list[Effect]:
    """Of every key with two levels or more, the greatest share first."""
    made = []
    for key in _keys(found):
        label = _labels(key, found)
        groups = _grouped(found, lambda s, label=label: label(s.point))
        if len(groups) > 1:
            made.append(Effect(key, tuple(_level(name, means) for name, means in groups.items()), _between(groups)))
    return sorted(made, key=lambda e: -e.share)


def interactions(found: Sequence[Setting]) -> list[Interaction]:
    """Of every pair of keys all of whose levels met, the greatest share first."""
    made = []
    for a, b in combinations(_keys(found), 2):
        one, two = _labels(a, found), _labels(b, found)
        groups = _grouped(found, lambda s, one=one, two=two: (one(s.point), two(s.point)))
        rows, columns = (sorted({pair[i] for pair in groups}) for i in (0, 1))
        if min(len(rows), len(columns)) < 2 or len(groups) < len(rows) * len(columns):
            continue
        cells = {pair: fmean(means) for pair, means in groups.items()}
        made.append(Interaction((a, b), _beyond(cells, groups, rows, columns), cells))
    return sorted(made, key=lambda i: -i.share)


def _keys(found: Sequence[Setting]) -> list[str]:
    return list(found[0].point) if found else []


def _labels(key: str, found: Sequence[Setting]) -> Callable[[Point], str]:
    """Names the level that a point belongs to."""
    values = [s.point[key] for s in found]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numeric or len(set(values)) <= LEVELS:
        return lambda point: text(point[key])
    ordered = sorted(values)
    third = -(-len(ordered) // 3)
    parts = [ordered[i : i + third] for i in range(0, len(ordered), third)]

    def label(point: Point) -> str:
        part = next(part for part in parts if point[key] <= part[-1])
        return f"{text(part[0])} to {text(part[-1])}"

    return label


def text(value: Any) -> str:
    """A value as it is shown in tables."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _grouped(found: Sequence[Setting], key: Callable[[Setting], Any]) -> dict[Any, list[float]]:
    groups: dict[Any, list[float]] = {}
    for s in found:
        groups.setdefault(key(s), []).append(s.mean)
    return groups


def _level(label: str, means: Sequence[float]) -> Level:
    return Level(label, fmean(means), stdev(means) if len(means) > 1 else None, len(means))


def _between(groups: Mapping[Any, Sequence[float]]) -> float:
    """Σ n_g (mean_g − mean)² / Σ (x − mean)²."""
    every = [x for means in groups.values() for x in means]
    whole = sum((x - fmean(every)) ** 2 for x in every)
    return sum(len(g) * (fmean(g) - fmean(every)) ** 2 for g in groups.values()) / whole if whole else 0.0


def _beyond(
    cells: Mapping[tuple[str, str], float], groups: Mapping[Any, Sequence[float]], rows: Sequence[str], columns: Sequence[str]
) -> float:
    """Σ n_ab (mean_ab − mean_a − mean_b + mean)² / Σ (x − mean)², with means over cells."""
    every = [x for means in groups.values() for x in means]
    whole = sum((x - fmean(every)) ** 2 for x in every)
    of_row = {r: fmean(cells[r, c] for c in columns) for r in rows}
    of_column = {c: fmean(cells[r, c] for r in rows) for c in columns}
    mean = fmean(cells.values())
    rest = sum(len(groups[r, c]) * (cells[r, c] - of_row[r] - of_column[c] + mean) ** 2 for r, c in product(rows, columns))
    return rest / whole if whole else 0.0
