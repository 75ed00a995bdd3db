"""What partitions are made of: dealing rows to clients by shares.

Shape suffixes: N rows, C clients, V kinds of rows (labels, or values of a column).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flexray.data.partition import Rows
from flexray.data.seeds import Purpose, generator
from flexray.errors import ConfigError

Dealt = dict[str, np.ndarray]
NOBODY = -1
TRIES = 200
"""So many draws of shares before giving up."""


@dataclass(frozen=True)
class Share:
    """Who holds one kind of rows, and how much of it: clients and fractions that add up to 1."""

    holders: np.ndarray
    fractions: np.ndarray


def equal(holders: Sequence[int]) -> Share:
    """Everyone the same."""
    return Share(np.asarray(holders), np.full(len(holders), 1 / len(holders)))


def by_shares(kinds_N: np.ndarray, shares_V: Sequence[Share], clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Positions for each client: every kind's rows, shuffled, cut in the shares of its holders. A kind NOBODY is not dealt.

    A client whose shares all round to no row gets one, of the kind that it holds most of, from whoever has most.
    """
    owners_N = np.full(len(kinds_N), NOBODY)
    for rows, share in zip(grouped(kinds_N, len(shares_V)), shares_V, strict=True):
        owners_N[rng.permutation(rows)] = np.repeat(share.holders, counts(share, len(rows)))
    _feed(owners_N, kinds_N, shares_V, clients)
    return grouped(owners_N, clients)


def counts(share: Share, rows: int) -> np.ndarray:
    """How many of so many rows each holder gets: the cumulative fractions, rounded, so that they add up."""
    ends = np.floor(np.cumsum(share.fractions) * rows + 0.5).astype(int)
    ends[-1] = rows
    return np.diff(np.minimum(ends, rows), prepend=0)


def draw_shares(
    draw: Callable[[np.random.Generator], Sequence[Share]], rows_V: Sequence[int], clients: int, min_rows: int, seed: int
) -> Sequence[Share]:
    """The first draw by whose shares of so many train rows of each kind every client gets at least `min_rows`."""
    best = 0
    for attempt in range(TRIES):
        shares_V = draw(generator(seed, Purpose.SHARES, attempt))
        sizes_C = np.zeros(clients, int)
        for share, rows in zip(shares_V, rows_V, strict=True):
            np.add.at(sizes_C, share.holders, counts(share, rows))
        if sizes_C.min() >= min_rows:
            return shares_V
        best = max(best, int(sizes_C.min()))
    raise ConfigError(
        f"data.partition.min_rows: expected {min_rows} train rows for every client, got {best} for the smallest in the "
        f"best of {TRIES} draws; raise data.partition.alpha, or lower data.partition.min_rows or clients"
    )


def grouped(numbers_N: np.ndarray, count: int) -> list[np.ndarray]:
    """Positions of each number 0 … count−1, ascending."""
    order = np.argsort(numbers_N, kind="stable")
    edges = np.searchsorted(numbers_N[order], np.arange(count + 1))
    return np.split(order, edges)[1:-1]


def codes(values: Sequence[str | None] | np.ndarray, vocabulary: Sequence[str]) -> np.ndarray:
    """[N] each value's number in the vocabulary, NOBODY where it is not there."""
    number: dict[str | None, int] = {value: i for i, value in enumerate(vocabulary)}
    return np.fromiter((number.get(v, NOBODY) for v in values), dtype=np.int64, count=len(values))


def client_names(count: int) -> list[str]:
    """client-00, client-01, …: as many digits as it takes, so that names sort as numbers do."""
    width = max(2, len(str(count - 1)))
    return [f"client-{i:0{width}d}" for i in range(count)]


def need_count(clients: int | None, name: str) -> int:
    """The number of clients, for a partition in which none comes naturally."""
    if clients is None:
        raise ConfigError(f"clients: expected a number with `data.partition.name: {name}`, got none; set clients")
    return clients


def need_labels(train: Rows, name: str) -> tuple[str, ...]:
    """The labels, for a partition that deals by them."""
    if not train.vocabulary:
        raise ConfigError(
            f"data.columns.label: expected a column with `data.partition.name: {name}`, got none; "
            "set data.columns.label, or data.partition.name to iid"
        )
    return train.vocabulary


def _feed(owners_N: np.ndarray, kinds_N: np.ndarray, shares_V: Sequence[Share], clients: int) -> None:
    """Give every client that has no row one, in place; whoever finds none of its kinds stays empty."""
    sizes_C = np.bincount(owners_N[owners_N != NOBODY], minlength=clients)
    for client in np.flatnonzero(sizes_C == 0):
        held = [(s.fractions[s.holders == client].sum(), -v) for v, s in enumerate(shares_V)]
        for fraction, kind in sorted(held, reverse=True):
            rows = np.flatnonzero(kinds_N == -kind)
            if fraction == 0 or len(rows) == 0:
                continue
            row = rows[np.argmax(sizes_C[owners_N[rows]])]
            if sizes_C[owners_N[row]] > 1:
                sizes_C[owners_N[row]] -= 1
                sizes_C[client] += 1
                owners_N[row] = client
                break
