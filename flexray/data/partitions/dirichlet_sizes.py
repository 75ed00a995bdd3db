"""Clients alike but for their size: rows of all kinds, numbers by Dirichlet(alpha) shares (quantity skew, arXiv 2102.02079)."""

from dataclasses import dataclass, field

import numpy as np

from flexray.data.dealing import Dealt, Share, by_shares, client_names, draw_shares, need_count
from flexray.data.partition import Partition, Rows
from flexray.data.seeds import Purpose, generator


@dataclass(frozen=True)
class DirichletSizes(Partition):
    """Rows of all kinds in the same proportions for everybody."""

    alpha: float = 0.5
    """The smaller, the more unequal the sizes."""
    min_rows: int = field(default=10, kw_only=True)
    """Sizes are drawn again, 200 times at most, until every client has so many train rows."""

    def check(self) -> tuple[str, ...]:
        if not 0 < self.alpha < float("inf"):
            return (f"alpha: expected more than 0, got {self.alpha}; 0.5 is usual, 100 gives nearly equal sizes",)
        return ()

    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> Dealt:
        count = need_count(clients, "dirichlet_sizes")

        def draw(rng: np.random.Generator) -> list[Share]:
            return [Share(np.arange(count), rng.dirichlet(np.full(count, self.alpha)))]

        shares = draw_shares(draw, [len(train)], count, self.min_rows, seed)
        pieces = by_shares(np.zeros(len(rows), int), shares, count, generator(seed, Purpose.DEAL))
        return dict(zip(client_names(count), pieces, strict=True))
