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
    """A client's local training in one round."""

    steps: int | None = Field(default=20, gt=0)
    """Local steps of a client in a round."""
    epochs: float | None = Field(default=None, gt=0)
    """So many passes over a client's own rows instead of the same number of steps for all."""
    batch: int = Field(default=8, gt=0)
    """Rows of a client in one batch."""
    accumulate: int = Field(default=1, gt=0)
    """Batches that one step averages over."""
    lr: float = Field(default=3e-3, gt=0)
    """The learning rate, at its height."""
    final_lr: float = Field(default=3e-4, ge=0)
    """What it falls to in the last round, by a cosine over rounds; it is constant within one."""
    private_lr: float | None = Field(default=None, gt=0)
    """The height for private parts, with the same course; null: that of the shared ones."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`constant`: no fall, and no final_lr."""
    warmup_rounds: int = Field(default=0, ge=0)
    """Rounds in which the rate rises from near zero."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of each round in which it rises from near zero."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """It starts afresh in each round."""
    weight_decay: float = Field(default=0.0, ge=0)
    """As AdamW's: apart from the gradient."""
    clip: float | None = Field(default=1.0, gt=0)
    """The most that a client's own gradient norm may be; null: no bound."""
    recompute: bool = False
    """The backward makes each layer's activations again instead of keeping them: a third more work for a fraction of the
    memory."""

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
    """When, whom and by what to score."""

    every: int | None = Field(default=5, gt=0)
    """Rounds between scorings; null: none before the end."""
    clients: Literal["all", "cohort"] | int = "all"
    """Who is scored in between: all, the cohort, or so many."""
    last: Literal["all", "cohort"] | int = "all"
    """Who is scored at the end: all, the cohort, or so many. Nobody owns more for having been scored."""
    metrics: tuple[str, ...] = ("loss", "exact_match")
    """Names of `flexray list metrics`, or .py files."""
    split: Literal["test", "valid"] = "test"
    """The rows to score: `valid` to choose settings by."""
    when: Literal["before_steps", "after_steps"] = "before_steps"
    """A client is scored after aggregation and before its local steps of the next round, or after these (then its personalised
    model has trained on from what the server sent)."""
    batch: int = Field(default=16, gt=0)
    """Rows of a client in one forward."""
    max_new_tokens: int = Field(default=64, gt=0)
    """The longest answer, for metrics that generate."""
    generate_rows: int | None = Field(default=None, gt=0)
    """At most so many rows per client for metrics that generate, chosen by the seed; null: all."""
    probe: Path | None = None
    """A file of multiple-choice questions (question, choices, answer), for the metric choice."""
    probe_rows: int | None = Field(default=None, gt=0)
    """At most so many of them, chosen by the seed."""
    inside_rows: int = Field(default=8, ge=0)
    """Valid rows of each client by which to look inside its blocks, always the same ones; 0: none."""

    @field_validator("probe")
    @classmethod
    def _possible(cls, value: Any) -> Any:
        return _possible(value)


class Resources(Section):
    """What a client actor may use, and where it runs."""

    cpu_per_client: float = Field(default=1.0, gt=0)
    """CPUs of an actor; a fraction is allowed."""
    gpu_per_client: float | None = Field(default=None, ge=0)
    """GPUs of an actor, at most 1, a fraction is allowed; null: a GPU is used where there is one."""
    threads: Literal["auto"] | int = "auto"
    """torch's threads in each actor; `auto`: the CPUs divided among a node's actors, but no more than the model's matrices keep
    busy. Results are the same to the bit at equal threads only."""
    backend: Literal["ray", "inline"] = "ray"
    """`inline`: everything in one process without Ray, for debugging."""
    address: str | None = None
    """`local` starts Ray here; `auto` or host:port joins a running cluster; ray://host:10001 runs all of it there, folders included;
    null: the cluster that the variable RAY_ADDRESS names, as in a job that `ray job submit` started, or else `local`."""


class Storage(Section):
    """Where files are kept."""

    cache: Path = Path("~/.cache/flexray")
    """Converted models and tokenised data. Nodes may have one each: what is missing there is brought from the node of the command."""
    private: Path | None = None
    """Where clients' private state rests; null: in the run folder. On several nodes it must be a folder that all of them share, which
    is checked."""
    key: Path | None = None
    """A file with 32 bytes, or 64 hexadecimal digits, with which private state is encrypted; at the same path on every node. Who
    loses it loses the private state."""
    durable: bool = False
    """A round is finished when it is on the disk, so that it outlives a loss of power too (of processes it outlives any)."""
    checkpoint: str | None = None
    """A folder or URI that pyarrow knows (s3://…, gs://…), under which, in a folder of the run folder's name, a copy of all that the
    run needs to go on is kept."""
    checkpoint_every: int = Field(default=1, gt=0)
    """Rounds between these copies, which are made while the next rounds are played."""

    @field_validator("cache", "private", "key")
    @classmethod
    def _possible(cls, value: Any) -> Any:
        return _possible(value)


class Faults(Section):
    """What happens to a client that fails in a round: it raised an error, its loss was no number, it took too long, or the process
    died that worked on it."""

    retries: int = Field(default=2, ge=0)
    """How often it is tried again, from its state before the round."""
    on_failure: Literal["fail", "skip"] = "fail"
    """Then the run ends (`fail`) and can be resumed, or it goes on without the client (`skip`), which is reported: a round's mean is
    over those who remain."""
    client_seconds: Literal["auto"] | float | None = "auto"
    """For one client's turn, training or scoring (a group of K seats has K times as long); `auto`: ten minutes, or fifty times what
    the slowest took for as many tokens, whichever is more; null: no end."""
    restarts: int = Field(default=10, ge=0)
    """Client actors that may be replaced in one round, besides those whose node has gone."""
