"""Memory for vectors, used again: on many machines fresh memory costs several times as much as what is then done in it."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import numpy as np

MOST = 8
"""Remembered; of more that are in use at a time the oldest are left to their users."""


class Vectors:
    """Vectors [P] to fill. One comes again as soon as nobody holds it, nor any array or tensor that is a view of it."""

    def __init__(self):
        self._made: deque[np.ndarray] = deque(maxlen=MOST)

    def take(self, numbers: int, kind: Any = np.float32) -> np.ndarray:
        """So many numbers, whatever they are."""
        for i, references in enumerate(_references(self._made)):
            if references == NOBODYS and len(self._made[i]) == numbers and self._made[i].dtype == kind:
                return self._made[i]
        self._made.append(np.empty(numbers, kind))
        return self._made[-1]

    def own(self, numbers: np.ndarray) -> np.ndarray:
        """The same in memory that may be written to: what comes from the object store is everybody's."""
        if numbers.flags.writeable:
            return numbers
        copy = self.take(len(numbers), numbers.dtype)
        np.copyto(copy, numbers)
        return copy

    def forget(self) -> None:
        """Those in use stay with their users."""
        self._made.clear()


def _references(vectors: deque[np.ndarray]) -> list[int]:
    """How many there are to each."""
    return [sys.getrefcount(vectors[i]) for i in range(len(vectors))]


NOBODYS = _references(deque([np.empty(1)]))[0]
"""To a vector that only we hold. Counted, not known: interpreters differ in which of them they count."""
