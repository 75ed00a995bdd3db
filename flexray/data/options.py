"""What the config says about data."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flexray.data.partition import Partition


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
    saved by `datasets`, or a hub id. keep: column to the values to keep. prompt: `alpaca`, or the tokenizer's `chat`
    template. max_length: tokens per row. *_fraction: what is cut from a client's train rows where the source has no such
    split. max_*_rows: at most so many per client, chosen by the seed.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    partition: Partition
    path: str = "builtin"
    columns: Columns = Columns()
    keep: dict[str, list[str]] = field(default_factory=dict)
    prompt: Literal["alpaca", "chat"] = "alpaca"
    max_length: int = 512
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    max_train_rows: int | None = None
    max_valid_rows: int | None = None
    max_test_rows: int | None = None
