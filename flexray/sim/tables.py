"""Rows as tables of pyarrow or pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import pyarrow as pa

from flexray.sim.run_folder import Table

if TYPE_CHECKING:
    from pandas import DataFrame


@overload
def table(rows: Table, kind: Literal["arrow"]) -> pa.Table: ...
@overload
def table(rows: Table, kind: Literal["arrow", "pandas"]) -> pa.Table | DataFrame: ...
def table(rows: Table, kind: Literal["arrow", "pandas"]) -> pa.Table | DataFrame:
    """Rows as a table of pyarrow or pandas: with every column that one of them has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    made = pa.table(columns)
    return made.to_pandas() if kind == "pandas" else made


def _column(values: list[Any]) -> pa.Array:
    """Values of several kinds become text."""
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {int, float} or len(kinds) < 2:
        return pa.array([float(v) if float in kinds and v is not None else v for v in values])
    return pa.array([None if v is None else str(v) for v in values])
