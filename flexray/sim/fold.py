"""Putting the updates of a round together, so that neither the order in which they arrive nor who summed them makes a difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flexray.sim.vectors import Vectors


class Fold:
    """Adds `leaves` vectors [P] up along a binary tree: each sum is that of its two halves, the first not the smaller.

    Whoever has both halves may add them up, wherever they are; what comes is written into. Of whole numbers without a sign (masked
    ones) sums are modulo 2⁶⁴.
    """

    def __init__(self, leaves: int, vectors: Vectors):
        self.leaves, self.vectors = leaves, vectors
        self._sums: dict[tuple[int, int], np.ndarray] = {}

    def add(self, vector: np.ndarray, first: int, end: int) -> None:
        """The sum of the leaves from `first` to before `end`, of which none was added before."""
        assert not any(a < end and first < b for a, b in self._sums), f"of {first} to {end} some were added already"
        for half, other in reversed(list(self._path(first, end))):
            if other not in self._sums:
                self._sums[half] = vector
                return
            vector = self._joined(vector, self._sums.pop(other))
        self._sums[0, self.leaves] = vector

    @property
    def places(self) -> list[tuple[int, int]]:
        """From which leaf to before which there is a sum, as far as leaves could be added up."""
        return list(self._sums)

    def take(self, first: int, end: int) -> np.ndarray:
        """The sum of these leaves, which then is no longer here."""
        return self._sums.pop((first, end))

    @property
    def result(self) -> np.ndarray:
        """The sum of all."""
        assert (0, self.leaves) in self._sums, f"only the sums {sorted(self._sums)} of {self.leaves} leaves came"
        return self._sums[0, self.leaves]

    def _path(self, first: int, end: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """From the whole down to these leaves: each half on the way, and the other one beside it."""
        a, b = 0, self.leaves
        while (a, b) != (first, end):
            middle = (a + b + 1) // 2
            halves = (a, middle), (middle, b)
            half, other = halves if end <= middle else halves[::-1]
            assert half[0] <= first < end <= half[1], f"{first} to {end} is no subtree of {self.leaves} leaves"
            yield half, other
            a, b = half

    def _joined(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Their sum, in place where that may be: what comes from the object store is everybody's."""
        into = next((v for v in (x, y) if v.flags.writeable), None)
        return np.add(x, y, out=self.vectors.take(len(x), x.dtype) if into is None else into)


class Gathering:
    """Single updates of `clients`, for methods that need each."""

    def __init__(self, clients: Sequence[int]):
        self._clients = clients
        self._found: dict[int, np.ndarray] = {}

    def add(self, vectors: Sequence[np.ndarray], clients: Sequence[int]) -> None:
        """Those of some of them."""
        self._found |= dict(zip(clients, vectors, strict=True))

    @property
    def result(self) -> list[np.ndarray]:
        """All of them, in client order."""
        assert self._found.keys() == {*self._clients}, f"{len(self._found)} of {len(self._clients)} updates came"
        return self.of(self._clients)

    def of(self, clients: Sequence[int]) -> list[np.ndarray]:
        """Those of some, in client order."""
        return [self._found[client] for client in sorted(clients)]
