"""Label skew of any strength: each label is divided among clients by Dirichlet(alpha) shares (arXiv 1909.06335, 2102.02079)."""

from dataclasses import dataclass

import numpy as np

from flexray.data.dealing import Dealt, Share, by_shares, client_names, codes, counts, grouped, need_count, need_labels
from flexray.data.partition import Partition, Rows
from flexray.data.seeds import Purpose, generator
from flexray.errors import ConfigError

TRIES = 200


@dataclass(frozen=True)
class Dirichlet(Partition):
    """The smaller alpha, the stronger the skew.

    min_rows: shares are drawn again until every client has so many train rows. with_replacement_rows: every client has
    so many train rows instead, drawn with replacement from its own Dirichlet(alpha) mixture of labels (held-out rows in
    proportion), as in the FLEx paper's second split; min_rows then plays no part.
    """

    alpha: float = 0.5
    min_rows: int = 10
    with_replacement_rows: int | None = None

    @property
    def covers(self) -> bool:
        return self.with_replacement_rows is None

    def check(self) -> tuple[str, ...]:
        found = []
        if not 0 < self.alpha < float("inf"):
            found.append(f"alpha: expected more than 0, got {self.alpha}; 0.5 is usual, 100 is close to iid")
        if self.min_rows < 1:
            found.append(f"min_rows: expected at least 1, got {self.min_rows}; every client needs rows")
        if self.with_replacement_rows is not None and self.with_replacement_rows < 1:
            found.append(
                f"with_replacement_rows: expected at least 1, got {self.with_replacement_rows}; leave it out to draw none"
            )
        return tuple(found)

    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> Dealt:
        count = need_count(clients, "dirichlet")
        labels = need_labels(train, "dirichlet")
        kinds_N = codes(rows.labels, labels)
        if self.with_replacement_rows is not None:
            each = max(1, round(self.with_replacement_rows * len(rows) / len(train)))
            pieces = self._draw(kinds_N, len(labels), each, count, seed)
        else:
            pieces = by_shares(kinds_N, self._shares(train, count, seed), count, generator(seed, Purpose.DEAL))
        return dict(zip(client_names(count), pieces, strict=True))

    def _shares(self, train: Rows, clients: int, seed: int) -> list[Share]:
        """The first draw that gives every client min_rows train rows."""
        sizes_V = [len(rows) for rows in grouped(codes(train.labels, train.vocabulary), len(train.vocabulary))]
        best = 0
        for attempt in range(TRIES):
            rng = generator(seed, Purpose.SHARES, attempt)
            fractions_VC = rng.dirichlet(np.full(clients, self.alpha), size=len(sizes_V))
            shares = [Share(np.arange(clients), fractions_C) for fractions_C in fractions_VC]
            smallest = int(np.sum([counts(share, n) for share, n in zip(shares, sizes_V, strict=True)], axis=0).min())
            if smallest >= self.min_rows:
                return shares
            best = max(best, smallest)
        raise ConfigError(
            f"data.partition.min_rows: expected {self.min_rows} train rows for every client, got {best} for the smallest in the "
            f"best of {TRIES} draws; raise data.partition.alpha, or lower data.partition.min_rows or clients"
        )

    def _draw(self, kinds_N: np.ndarray, labels: int, each: int, clients: int, seed: int) -> list[np.ndarray]:
        """So many rows for each client, with replacement, in its mixture of the labels that this split has."""
        rows_V = grouped(kinds_N, labels)
        there_V = np.array([len(rows) > 0 for rows in rows_V])
        mixtures_CV = generator(seed, Purpose.SHARES).dirichlet(np.full(labels, self.alpha), size=clients) * there_V
        rng = generator(seed, Purpose.DEAL)
        pieces = []
        for mixture_V in mixtures_CV:
            total = mixture_V.sum()
            drawn_V = rng.multinomial(each, mixture_V / total) if total > 0 else np.zeros(labels, int)
            drawn = [rng.choice(rows, n) for rows, n in zip(rows_V, drawn_V, strict=True) if n]
            pieces.append(np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, int))
        return pieces
