"""Dealing rows to clients by shares, and the laws that every deal must keep.

Shape suffixes: N rows, C clients, V kinds of rows (labels, or values of a column).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flexray.data.partition import Partition, Rows
from flexray.errors import ConfigError, expected

Dealt = dict[str, np.ndarray]
NOBODY = -1


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


def deal_splits(partition: Partition, splits: Mapping[str, Rows], clients: int | None, seed: int) -> dict[str, Dealt]:
    """Every split dealt by the same partition, and the laws checked: split to client name to positions."""
    train = splits["train"]
    if clients is not None and clients < 1:
        raise expected("clients", "at least 1", clients, "raise it")
    if clients is not None and clients > len(train):
        raise expected("clients", f"at most as many as train rows ({len(train)})", clients, "lower it or give more rows")
    dealt = {split: partition.deal(rows, train, clients, seed) for split, rows in splits.items()}
    _check_clients(dealt, clients)
    for split, rows in splits.items():
        _check_positions(partition, rows, dealt[split])
        _check_nobody_empty(split, dealt[split])
    return dealt


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


def _check_clients(dealt: Mapping[str, Dealt], clients: int | None) -> None:
    names = list(dealt["train"])
    if clients is not None and len(names) != clients:
        raise ConfigError(
            f"data.partition: expected {clients} clients as asked, got {len(names)}; mend the partition or clients"
        )
    for split, pieces in dealt.items():
        if list(pieces) != names:
            raise ConfigError(
                f"data.partition: expected the same clients in every split, got others in {split}; mend the partition"
            )


def _check_positions(partition: Partition, rows: Rows, dealt: Dealt) -> None:
    dealt_N = np.concatenate(list(dealt.values()))
    if len(dealt_N) and (dealt_N.min() < 0 or dealt_N.max() >= len(rows)):
        raise expected("data.partition", f"positions below {len(rows)}", int(dealt_N.max()), "mend the partition")
    if not partition.covers:
        return
    times_N = np.bincount(dealt_N, minlength=len(rows))
    if times_N.max(initial=0) > 1:
        row, times = int(times_N.argmax()), int(times_N.max())
        raise ConfigError(
            f"data.partition: expected every row at one client, got {rows.split} row {row} {times} times; mend it"
        )
    if rows.split == "train" and times_N.min(initial=1) < 1:
        raise ConfigError(
            f"data.partition: expected every train row at a client, got row {int(times_N.argmin())} at none; mend the partition"
        )


def _check_nobody_empty(split: str, dealt: Dealt) -> None:
    empty = [name for name, positions in dealt.items() if len(positions) == 0]
    if not empty:
        return
    more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
    mend = "lower clients or choose another data.partition"
    if split != "train":
        mend += f", or leave the {split} split out of the data, so that it is cut from each client's train rows"
    raise ConfigError(f"data.partition: expected {split} rows for every client, got none for {empty[0]!r}{more}; {mend}")
