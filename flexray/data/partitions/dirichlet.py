"""Label skew of any strength: each label is divided among clients by Dirichlet(alpha) shares (arXiv 1909.06335, 2102.02079)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from flexray.data.dealing import Dealt, Share, by_shares, client_names, codes, draw_shares, grouped, need_count, need_labels
from flexray.data.partition import Partition, Rows
from flexray.data.seeds import Purpose, generator


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Each label is divided among the clients by shares drawn for it."""

    alpha: float = 0.5
    """The smaller, the stronger the skew; 100 is close to iid."""
    with_replacement_rows: int | None = None
    """Every client has so many train rows instead, drawn with replacement from its own mixture of labels, as in the FLEx
    paper's second split; null: rows are divided."""
    weigh: Literal["labels", "rows"] = "labels"
    """For that draw: `labels`, a label comes as often as the mixture says; `rows`, every row weighs what the mixture says of
    its label (the authors' released code)."""
    min_rows: int = field(default=10, kw_only=True)
    """Shares are drawn again, 200 times at most, until every client has so many train rows."""

    @property
    def disjoint(self) -> bool:
        return self.with_replacement_rows is None

    @property
    def covers(self) -> bool:
        return self.with_replacement_rows is None

    def check(self) -> tuple[str, ...]:
        found = []
        if not 0 < self.alpha < float("inf"):
            found.append(f"alpha: expected more than 0, got {self.alpha}; 0.5 is usual, 100 is close to iid")
        drawn = self.with_replacement_rows
        if drawn is not None and drawn < self.min_rows:
            found.append(
                f"with_replacement_rows: expected at least min_rows ({self.min_rows}), got {drawn}; lower min_rows too"
            )
        if drawn is None and self.weigh == "rows":
            found.append("weigh: expected labels without with_replacement_rows, got 'rows'; set both, or drop weigh")
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

    def _shares(self, train: Rows, clients: int, seed: int) -> Sequence[Share]:
        """Everybody's share of each label, such that every client gets min_rows train rows."""
        rows_V = [len(rows) for rows in grouped(codes(train.labels, train.vocabulary), len(train.vocabulary))]

        def draw(rng: np.random.Generator) -> list[Share]:
            fractions_VC = rng.dirichlet(np.full(clients, self.alpha), size=len(rows_V))
            return [Share(np.arange(clients), fractions_C) for fractions_C in fractions_VC]

        return draw_shares(draw, rows_V, clients, self.min_rows, seed)

    def _draw(self, kinds_N: np.ndarray, labels: int, each: int, clients: int, seed: int) -> list[np.ndarray]:
        """So many rows for each client, with replacement, in its mixture of the labels that this split has."""
        rows_V = grouped(kinds_N, labels)
        there_V = np.array([len(rows) if self.weigh == "rows" else len(rows) > 0 for rows in rows_V])
        mixtures_CV = generator(seed, Purpose.SHARES).dirichlet(np.full(labels, self.alpha), size=clients) * there_V
        rng = generator(seed, Purpose.DEAL)
        pieces = []
        for mixture_V in mixtures_CV:
            total = mixture_V.sum()
            drawn_V = rng.multinomial(each, mixture_V / total) if total > 0 else np.zeros(labels, int)
            drawn = [rng.choice(rows, n) for rows, n in zip(rows_V, drawn_V, strict=True) if n]
            pieces.append(np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, int))
        return pieces
