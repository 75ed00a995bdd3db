"""The sections of an experiment that are not chosen by name: training, evaluation, resources, storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LONGEST_PATH = 4000
"""Bytes that file systems take, nearly."""


class Section(BaseModel):
    """A group of keys: frozen, and closed to unknown ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def _possible(path: Path | None) -> Path | None:
    """A path that a file system takes, of a user that there is. Raises ValueError for any other."""
    if path is not None and ("\0" in str(path) or len(str(path)) > LONGEST_PATH):
        raise ValueError
    if path is not None and os.path.expanduser(path).startswith("~"):
        raise ValueError
    return path


class Train(Section):
    """A client's local training in one round. The optimizer starts afresh each round.

    epochs: so many passes over a client's own rows instead of the same number of steps for all. lr falls to final_lr by a cosine
    over rounds and is constant within one; private parts train at private_lr (same
    course) where that is set. warmup_rounds and warmup_steps (of each round) raise it from near zero. A step averages over
    accumulate batches. clip bounds each client's own gradient norm. recompute: the backward makes each layer's
    activations again instead of keeping them, a third more work for a fraction of the memory.
    """

    steps: int | None = Field(default=20, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    batch: int = Field(default=8, gt=0)
    accumulate: int = Field(default=1, gt=0)
    lr: float = Field(default=3e-3, gt=0)
    final_lr: float = Field(default=3e-4, ge=0)
    private_lr: float | None = Field(default=None, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_rounds: int = Field(default=0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    recompute: bool = False

    @model_validator(mode="before")
    @classmethod
    def _either(cls, values: Any) -> Any:
        """Epochs take the place of the default number of steps."""
        if isinstance(values, Mapping) and values.get("epochs") is not None:
            return {"steps": None, **values}
        return values

    def local_steps(self, rows: int, batch: int) -> int:
        """What a client with so many rows takes in a round, `batch` rows each."""
        if self.epochs is None:
            assert self.steps is not None
            return self.steps
        return max(1, ceil(self.epochs * rows / batch))


class Evaluation(Section):
    """When, whom and by what to score: every n rounds (null: not before the end) some `clients`, and at the end `last`: all, the
    cohort, or so many. Nobody owns more for having been scored.

    split: `test`, or `valid` to choose settings by. when: a client is scored after aggregation and before its local steps
    of the next round, or after these (then its personalised model has trained on from what the server sent). batch: rows
    of a client in one forward. max_new_tokens and generate_rows (at most so many per client, chosen by the seed) are for
    metrics that generate. probe: a file of multiple-choice questions (question, choices, answer) for the metric choice;
    probe_rows: at most so many of them, chosen by the seed. inside_rows: valid rows of each client by which to look inside
    its blocks (0: none), always the same ones.
    """

    every: int | None = Field(default=5, gt=0)
    clients: Literal["all", "cohort"] | int = "all"
    last: Literal["all", "cohort"] | int = "all"
    metrics: tuple[str, ...] = ("loss", "exact_match")
    split: Literal["test", "valid"] = "test"
    when: Literal["before_steps", "after_steps"] = "before_steps"
    batch: int = Field(default=16, gt=0)
    max_new_tokens: int = Field(default=64, gt=0)
    generate_rows: int | None = Field(default=None, gt=0)
    probe: Path | None = None
    probe_rows: int | None = Field(default=None, gt=0)
    inside_rows: int = Field(default=8, ge=0)

    @field_validator("probe")
    @classmethod
    def _possible(cls, value: Any) -> Any:
        return _possible(value)


class Resources(Section):
    """What a client actor may use. gpu_per_client may be a fraction, and at most 1; unset, a GPU is used where there is one.

    backend: `ray`, or `inline` for one process without Ray (debugging). address: `local` starts Ray here, `auto` or
    host:port joins a running cluster. threads: of torch in each actor; auto: the CPUs divided among a node's actors, but no
    more than the model's matrices keep busy. Results are the same to the bit at equal threads only.
    """

    cpu_per_client: float = Field(default=1.0, gt=0)
    gpu_per_client: float | None = Field(default=None, ge=0)
    threads: Literal["auto"] | int = "auto"
    backend: Literal["ray", "inline"] = "ray"
    address: str = "local"


class Storage(Section):
    """cache: converted models and tokenised data, one per node. private: where clients' private state rests; unset, in
    the run folder. On several nodes it must be a folder that all of them share."""

    cache: Path = Path("~/.cache/flexray")
    private: Path | None = None

    @field_validator("*")
    @classmethod
    def _possible(cls, value: Any) -> Any:
        return _possible(value)
