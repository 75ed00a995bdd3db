"""Shards: rows sorted by label are cut into equal shards, dealt at random, so many a client (McMahan et al., arXiv 1602.05629)."""

from dataclasses import dataclass

import numpy as np

from flexray.data.dealing import Dealt, Share, by_shares, client_names, codes, grouped, need_count, need_labels
from flexray.data.partition import Partition, Rows
from flexray.data.seeds import Purpose, generator
from flexray.errors import ConfigError


@dataclass(frozen=True)
class Shards(Partition):
    """Clients are equally large, to `shards_per_client` rows, and have few labels: a shard has one, or two and more where it
    crosses a border. A held-out split is dealt in the same shares of each label."""

    shards_per_client: int = 2
    """How many shards a client gets."""

    def check(self) -> tuple[str, ...]:
        if self.shards_per_client < 1:
            return (f"shards_per_client: expected at least 1, got {self.shards_per_client}; 2 is the usual split",)
        return ()

    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> Dealt:
        count = need_count(clients, "shards")
        labels = need_labels(train, "shards")
        if count * self.shards_per_client > len(train):
            raise ConfigError(
                f"data.partition.shards_per_client: expected at most as many shards as train rows ({len(train)}), got {count} "
                f"clients with {self.shards_per_client} each; lower it or clients"
            )
        shares = self._shares(train, labels, count, seed)
        pieces = by_shares(codes(rows.labels, labels), shares, count, generator(seed, Purpose.DEAL))
        return dict(zip(client_names(count), pieces, strict=True))

    def _shares(self, train: Rows, labels: tuple[str, ...], clients: int, seed: int) -> list[Share]:
        """Who holds each label: the owners of the shards that lie in it, by how much of it they have."""
        shards = clients * self.shards_per_client
        edges = np.arange(shards + 1) * len(train) // shards
        owners = generator(seed, Purpose.SHARES).permutation(shards) // self.shards_per_client
        shares, start = [], 0
        for own in grouped(codes(train.labels, labels), len(labels)):
            rows = np.diff(np.clip(edges, start, start + len(own)))
            shares.append(Share(owners[rows > 0], rows[rows > 0] / len(own)))
            start += len(own)
        return shares
