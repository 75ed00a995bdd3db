"""What the config says about data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flexray.data.partition import Partition

SHORTEST = 8
"""Tokens that a row must be allowed to have: a prompt and a response are told apart in no fewer."""


@dataclass(frozen=True)
class Columns:
    """Which columns of the source hold what. `input` may be absent from the source; `label` may be unset."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    label: str | None = None


@dataclass(frozen=True)
class Data:
    """Where rows come from, how they become tokens, and who gets them.

    path: `builtin`, a file (.jsonl .json .csv .parquet), a folder of such files (splits told by their names), a folder
    saved by `datasets`, or a hub id. subset: which configuration of a hub data set. keep: column to the values to keep.
    prompt: `alpaca`, or the tokenizer's `chat` template. max_length: tokens per row. *_fraction: what is cut from a
    client's train rows where the source has no such split. max_*_rows: at most so many per client, chosen by the seed.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    partition: Partition
    path: str = "builtin"
    subset: str | None = None
    columns: Columns = Columns()
    keep: dict[str, list[str]] = field(default_factory=dict)
    prompt: Literal["alpaca", "chat"] = "alpaca"
    max_length: int = 512
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    max_train_rows: int | None = None
    max_valid_rows: int | None = None
    max_test_rows: int | None = None


def problems(data: Data) -> Iterator[str]:
    """Values that make no sense, each `<dotted key>: expected …, got …; <mend>`. Reads no file."""
    if data.max_length < SHORTEST:
        yield f"data.max_length: expected at least {SHORTEST} tokens, got {data.max_length}; 512 is usual"
    for name in ("valid_fraction", "test_fraction"):
        if not 0 < getattr(data, name) < 1:
            yield f"data.{name}: expected more than 0 and less than 1, got {getattr(data, name)}; every client needs held-out rows"
    if data.valid_fraction + data.test_fraction >= 1:
        total = data.valid_fraction + data.test_fraction
        yield f"data.valid_fraction: expected less than 1 together with data.test_fraction, got {total:g}; leave rows to train on"
    for name in ("max_train_rows", "max_valid_rows", "max_test_rows"):
        limit = getattr(data, name)
        if limit is not None and limit < 1:
            yield f"data.{name}: expected at least 1 row, got {limit}; leave it out for all rows"
    for column, values in data.keep.items():
        if not values:
            yield f"data.keep.{column}: expected at least one value, got none; leave the column out to keep all rows"
    yield from (f"data.partition.{problem}" for problem in data.partition.check())
