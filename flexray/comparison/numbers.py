"""The numbers that methods are compared by: found from the metrics before any run, and computed for arrays of summed counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexray import folder
from flexray.config import Experiment
from flexray.metric import Metric
from flexray.metric import Number as Reading


@dataclass(frozen=True)
class Number:
    """One number of a metric, and the keys of the counts that it is made of."""

    name: str
    metric: Metric
    keys: tuple[str, ...]

    @property
    def reading(self) -> Reading:
        """How it reads, and whether less of it is better."""
        return self.metric.number(self.name)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """From summed counts […, Q] in the order of `keys` to the number […]; not a number where nothing was counted."""
        flat = sums.reshape(-1, len(self.keys))
        columns: Any = dict(zip(self.keys, np.resize(flat, (max(2, len(flat)), len(self.keys))).T, strict=True))
        try:
            found = np.asarray(self.metric.value(columns)[self.name], float)[: len(flat)]
        except (TypeError, ValueError):  # a branch, or the math module: made for single numbers
            found = np.array([self._one(dict(zip(self.keys, row, strict=True))) for row in flat.tolist()])
        return found.reshape(sums.shape[:-1])

    def _one(self, counts: Mapping[str, float]) -> float:
        try:
            return self.metric.value(counts)[self.name]
        except ArithmeticError:
            return float("nan")


class _Asked(Mapping[str, float]):
    """Counts that are all 1, and which of them were asked for."""

    def __init__(self) -> None:
        self.keys_asked: dict[str, None] = {}

    def __getitem__(self, key: str) -> float:
        self.keys_asked[key] = None
        return 1.0

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_asked)

    def __len__(self) -> int:
        return len(self.keys_asked)


def numbers(x: Experiment) -> dict[str, Number]:
    """Every number of an experiment's metrics, by name."""
    found = {}
    for metric in (folder.load("metrics", name, "evaluation.metrics", x.plugins)() for name in x.evaluation.metrics):
        asked = _Asked()
        names = list(metric.value(asked))
        found |= {name: Number(name, metric, tuple(asked.keys_asked)) for name in names}
    return found
