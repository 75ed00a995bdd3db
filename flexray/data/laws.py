"""The laws that every deal must keep, and the deal itself."""

from collections.abc import Mapping

import numpy as np

from flexray.data.dealing import Dealt
from flexray.data.partition import Partition, Rows
from flexray.errors import ConfigError, expected


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
    _check_smallest(partition.min_rows, dealt["train"])
    return dealt


def _check_clients(dealt: Mapping[str, Dealt], clients: int | None) -> None:
    names = list(dealt["train"])
    if not names:
        raise ConfigError("data.partition: expected clients, got none; mend the partition")
    if clients is not None and len(names) != clients:
        raise ConfigError(
            f"data.partition: expected {clients} clients as asked, got {len(names)}; set clients to {len(names)}, or mend the partition"
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
    times_N = np.bincount(dealt_N, minlength=len(rows))
    if partition.disjoint and times_N.max(initial=0) > 1:
        row, times = int(times_N.argmax()), int(times_N.max())
        raise ConfigError(
            f"data.partition: expected every row at one client, got {rows.split} row {row} {times} times; mend it"
        )
    if partition.covers and rows.split == "train" and times_N.min(initial=1) < 1:
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
    if split == "test":
        mend += ", or set data.test to central"
    raise ConfigError(f"data.partition: expected {split} rows for every client, got none for {empty[0]!r}{more}; {mend}")


def _check_smallest(min_rows: int, train: Dealt) -> None:
    name = min(train, key=lambda name: len(train[name]))
    if len(train[name]) < min_rows:
        raise ConfigError(
            f"data.partition.min_rows: expected {min_rows} train rows for every client, got {len(train[name])} for {name!r}; "
            "lower it or clients, or choose another data.partition"
        )
