"""What a process that holds clients has added up in a round."""

from __future__ import annotations

from collections.abc import Sequence

from flexray.sim.fold import Fold
from flexray.sim.reports import Sum
from flexray.sim.vectors import Vectors


class Folds:
    """A fold for each cluster, of one round."""

    def __init__(self, vectors: Vectors):
        self.vectors = vectors
        self._round, self._folds = 0, dict[int, Fold]()

    def of(self, round: int, cluster: int, leaves: int) -> Fold:
        """A cluster's. What is left of another round is forgotten."""
        if self._round != round:
            self._folds, self._round = {}, round
        if cluster not in self._folds:
            self._folds[cluster] = Fold(leaves, self.vectors)
        return self._folds[cluster]

    def gather(self) -> list[Sum]:
        """All sums, which then are no longer here."""
        every = [(cluster, fold, place) for cluster, fold in self._folds.items() for place in fold.places]
        self._folds = {}
        return [Sum(cluster, fold.leaves, *place, fold.take(*place)) for cluster, fold, place in every]

    def absorb(self, round: int, sums: Sequence[Sum]) -> None:
        """Adds what another process has added up."""
        for s in sums:
            self.of(round, s.cluster, s.of).add(s.vector, s.first, s.end)
