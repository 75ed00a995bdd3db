"""Pathological label skew: every client has rows of a few labels only (McMahan et al. 2017, arXiv 1602.05629)."""

from dataclasses import dataclass

import numpy as np

from flexray.data.dealing import Dealt, by_shares, client_names, codes, equal, need_labels
from flexray.data.partition import Partition, Rows
from flexray.data.seeds import Purpose, generator
from flexray.errors import ConfigError


@dataclass(frozen=True)
class ByLabel(Partition):
    """Each label's rows are divided equally among the clients that hold it; all labels are held.

    By default a client for each label, named after it; else labels are dealt by the seed, so that the numbers of
    clients that hold each of them differ by one at most.
    """

    labels_per_client: int = 1
    """How many labels a client has rows of."""

    def check(self) -> tuple[str, ...]:
        if self.labels_per_client < 1:
            return (f"labels_per_client: expected at least 1, got {self.labels_per_client}; 1 is the usual split",)
        return ()

    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> Dealt:
        labels = need_labels(train, "by_label")
        count = len(labels) if clients is None else clients
        self._check_numbers(labels, count)
        one_each = self.labels_per_client == 1 and count == len(labels)
        holders = [[i] for i in range(count)] if one_each else self._holders(len(labels), count, seed)
        pieces = by_shares(codes(rows.labels, labels), list(map(equal, holders)), count, generator(seed, Purpose.DEAL))
        return dict(zip(labels if one_each else client_names(count), pieces, strict=True))

    def _check_numbers(self, labels: tuple[str, ...], clients: int) -> None:
        if self.labels_per_client > len(labels):
            raise ConfigError(
                f"data.partition.labels_per_client: expected at most as many as labels ({len(labels)}: "
                f"{', '.join(labels[:10])}), got {self.labels_per_client}; lower it"
            )
        if clients * self.labels_per_client < len(labels):
            raise ConfigError(
                f"data.partition.labels_per_client: expected the {len(labels)} labels to be all held, got {clients} clients with "
                f"{self.labels_per_client} each; raise it or clients, or choose labels with data.keep"
            )

    def _holders(self, labels: int, clients: int, seed: int) -> list[list[int]]:
        """Who holds each label. Each client in turn takes those that fewest hold so far; the seed decides between equals."""
        rng = generator(seed, Purpose.SHARES)
        holders: list[list[int]] = [[] for _ in range(labels)]
        for client in range(clients):
            for label in np.lexsort([rng.random(labels), np.array([len(h) for h in holders])])[: self.labels_per_client]:
                holders[label].append(client)
        return holders
