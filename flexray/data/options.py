"""What the config says about data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flexray.data.partition import Partition

SHORTEST = 8
"""Tokens that a row must be allowed to have: a prompt and a response are told apart in no fewer."""


@dataclass(frozen=True)
class Columns:
    """Which columns of the source hold what."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    instruction: str = "instruction"
    """What is asked."""
    input: str = "input"
    """What belongs to the question; the source may lack it."""
    output: str = "output"
    """The response, on which the loss is."""
    label: str | None = None
    """What kind a row is of, for partitions by label and for tables; null: unknown."""


@dataclass(frozen=True)
class Data:
    """Where rows come from, how they become tokens, and who gets them."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    partition: Partition
    """Who gets which rows: a name alone, or a section with its `name` and settings; a path ending in .py is a file of your own.
    """
    path: str = "builtin"
    """`builtin`, a file (.jsonl .json .csv .parquet), a folder of such files (splits told by their names), a folder saved by
    `datasets`, or a hub id."""
    subset: str | None = None
    """Which configuration of a hub data set."""
    columns: Columns = Columns()
    """Which columns of the source hold what."""
    keep: dict[str, list[str]] = field(default_factory=dict)
    """Column to the values to keep; rows with others are left out."""
    prompt: Literal["alpaca", "chat"] = "alpaca"
    """`alpaca`, or the tokenizer's own `chat` template."""
    max_length: int = 512
    """Tokens per row; one that is too long loses its prompt's middle first."""
    valid_fraction: float = 0.1
    """What is cut from a client's train rows where the source has no valid split."""
    test_fraction: float = 0.1
    """What is cut from a client's train rows where the source has no test split."""
    test: Literal["own", "central"] = "own"
    """Every client has test rows of its `own`, or all have the same, `central`, set aside before rows are dealt: the source's
    test rows, or test_fraction of its train rows."""
    central_test_rows: int | None = None
    """Of a central test, so many rows of each label; null: all."""
    max_train_rows: int | None = None
    """At most so many per client, chosen by the seed; null: all."""
    max_valid_rows: int | None = None
    """At most so many per client, chosen by the seed; null: all."""
    max_test_rows: int | None = None
    """At most so many per client, chosen by the seed; null: all."""


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
    yield from _of_central_test(data)
    yield from (f"data.partition.{problem}" for problem in (*data.partition.check(), *_of_partition(data.partition)))


def _of_central_test(data: Data) -> Iterator[str]:
    rows, key = data.central_test_rows, "data.central_test_rows"
    if rows is None:
        return
    if rows < 1:
        yield f"{key}: expected at least 1 row of each label, got {rows}; 25 is the paper's number"
    if data.test != "central":
        yield f"{key}: expected none with `data.test: {data.test}`, got {rows}; set data.test to central, or drop it"
    if data.max_test_rows is not None:
        yield f"{key}: expected none with data.max_test_rows, got {rows}; drop one of the two"
    if not data.columns.label:
        yield f"data.columns.label: expected a column with {key}, got none; set it, or use data.max_test_rows"


def _of_partition(partition: Partition) -> Iterator[str]:
    """Of the settings that every partition has."""
    if partition.min_rows < 1:
        yield f"min_rows: expected at least 1, got {partition.min_rows}; every client needs rows"
    if not 0 <= partition.overlap <= 1:
        yield f"overlap: expected 0 to 1, got {partition.overlap}; 0.2 is a fifth of a client's rows on top"
    elif partition.overlap and not partition.disjoint:
        yield f"overlap: expected 0 where rows are drawn with replacement, got {partition.overlap}; drop one of the two"
