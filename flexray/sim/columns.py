"""Small things to do with pyarrow's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def ledger(round: int, clients: Any, costs: Any, directions: Any, roles: Any) -> pa.Table:
    """Whose bytes crossed in a round, in which direction, in which role."""
    return pa.table(
        {"round": np.full(len(clients), round), "client": clients, "direction": directions, "role": roles, "bytes": costs}
    )


def without(rows: pa.Table, keys: Sequence[str], told: set[tuple[Any, ...]]) -> pa.Table:
    """The rows whose keys are not among these."""
    return rows.filter(pa.array([key not in told for key in keyed(rows, keys)], pa.bool_()))


def keyed(rows: pa.Table, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Each row's values in these columns."""
    return zip(*(rows[key].to_pylist() for key in keys), strict=True)
