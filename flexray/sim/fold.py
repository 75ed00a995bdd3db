"""Putting the updates of a round together, so that the order in which they arrive makes no difference."""

from __future__ import annotations

import numpy as np


class Fold:
    """Adds `slices` vectors [P] up in their own order whatever the order they arrive in, holding only those that came too early."""

    def __init__(self, numbers: int, slices: int):
        self._total = np.zeros(numbers, np.float32)
        self._early: dict[int, np.ndarray] = {}
        self._next, self._slices = 0, slices

    def add(self, number: int, vector: np.ndarray) -> None:
        self._early[number] = vector
        while self._next in self._early:
            self._total += self._early.pop(self._next)
            self._next += 1

    @property
    def result(self) -> np.ndarray:
        """The sum of all."""
        assert self._next == self._slices, f"slice {self._next} of {self._slices} never came"
        return self._total


class Gathering:
    """Single updates of a cluster's `slices`, for methods that need each."""

    def __init__(self, slices: int):
        self._found: dict[int, list[np.ndarray]] = {}
        self._slices = slices

    def add(self, number: int, vectors: list[np.ndarray]) -> None:
        self._found[number] = vectors

    @property
    def result(self) -> list[np.ndarray]:
        """All of them, in client order."""
        assert len(self._found) == self._slices, f"{len(self._found)} of {self._slices} slices came"
        return [vector for number in sorted(self._found) for vector in self._found[number]]
