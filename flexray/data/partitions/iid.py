"""All clients alike: rows shuffled and dealt in equal numbers."""

from dataclasses import dataclass

import numpy as np

from flexray.data.dealing import Dealt, by_shares, client_names, equal, need_count
from flexray.data.partition import Partition, Rows
from flexray.data.seeds import Purpose, generator


@dataclass(frozen=True)
class Iid(Partition):
    """Sizes differ by one row at most."""

    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> Dealt:
        count = need_count(clients, "iid")
        pieces = by_shares(np.zeros(len(rows), int), [equal(range(count))], count, generator(seed, Purpose.DEAL))
        return dict(zip(client_names(count), pieces, strict=True))
