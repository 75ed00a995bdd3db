"""A natural key: the rows of one value of a column (an author, a task, a service) stay together at one client."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flexray.data.dealing import Dealt, by_shares, client_names, codes, equal
from flexray.data.partition import Partition, Rows
from flexray.data.seeds import Purpose, generator
from flexray.errors import ConfigError


@dataclass(frozen=True)
class Column(Partition):
    """By default a client for each value of the column, named after it.

    With fewer clients than values every client holds several: the largest value first, each to the client with the
    fewest train rows so far. The seed plays no part.
    """

    column: str
    """The column whose values stay together."""

    def needs(self) -> dict[str, str]:
        return {"column": self.column}

    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> Dealt:
        sizes = self._sizes(train)
        values = sorted(sizes)
        count = len(values) if clients is None else clients
        if count > len(values):
            raise ConfigError(
                f"clients: expected at most as many as values of the column {self.column!r} ({len(values)}), got {count}; "
                "lower clients, or leave it out for one per value"
            )
        one_each = count == len(values)
        holder = dict(zip(values, range(count), strict=True)) if one_each else _balanced(sizes, count)
        shares = [equal([holder[value]]) for value in values]
        pieces = by_shares(codes(rows.columns[self.column], values), shares, count, generator(seed, Purpose.DEAL))
        return dict(zip(values if one_each else client_names(count), pieces, strict=True))

    def _sizes(self, train: Rows) -> Counter[str]:
        sizes = Counter(train.columns[self.column])
        if missing := sizes.pop(None, 0):
            raise ConfigError(
                f"data.partition.column: expected a value of {self.column!r} in every train row, got {missing} of {len(train)} "
                "without; mend the rows or choose another column"
            )
        return sizes


def _balanced(sizes: Counter[str], clients: int) -> dict[str, int]:
    """Value to client: the largest first, each to whoever has the fewest rows so far."""
    rows_C = np.zeros(clients, int)
    holder = {}
    for value, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        holder[value] = int(rows_C.argmin())
        rows_C[holder[value]] += size
    return holder
