"""A job: the checked experiment with everything that a process needs to take part in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from flexray import folder
from flexray.algorithm import Algorithm
from flexray.config import Experiment
from flexray.data.clients import Client
from flexray.data.corpus import Corpus
from flexray.metric import Metric
from flexray.models.seats import is_trained
from flexray.sim.schedule import cohort, flipped
from flexray.sim.system.buffered import Buffered
from flexray.sim.system.fleet import Fleet
from flexray.sim.system.rounds import Rounds
from flexray.sim.system.timeline import timeline
from flexray.sim.wire import Wire
from flexray.state import part_of

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Layout:
    """How clients sit: `actors` processes with `threads` threads each, `seats` clients per forward, on `device`.

    cpu and gpu are what each actor asks of Ray. placement: `one_per_client` or `pooled`; never `auto` here.
    """

    placement: str
    actors: int
    seats: int
    threads: int
    device: str
    cpu: float
    gpu: float


@dataclass(frozen=True)
class Costs:
    """What is counted, not measured. FLOPs per token of the frozen forward, and what the method's parts add to it; bytes of one
    update, one way, if other things were sent instead: by name."""

    flops: int
    flops_added: int
    instead: dict[str, int]


@dataclass(frozen=True)
class Job:
    """What crosses to every process: plain values and paths, no tensors.

    backbone: the converted model's folder; corpus: the tokenised table; private: where private state rests; shapes: of
    every trained tensor, per client; cohort: updates of a round; kit: what scoring needs besides the corpus; fleet: None where no
    clock is simulated.
    """

    spec: dict[str, Any]
    layout: Layout
    backbone: Path
    corpus: Path
    private: Path
    clients: tuple[Client, ...]
    shapes: dict[str, tuple[int, ...]]
    cohort: int
    costs: Costs
    kit: Path | None = None
    fleet: Fleet | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is made of them may be of classes that a user's file defines, and is made again."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"clients": _columns(self.clients)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"clients": _clients(*state["clients"])})

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment(**self.spec)

    @cached_property
    def identity(self) -> str:
        """Of the run, wherever it goes on: what its states are made by."""
        told = {key: self.spec.get(key) for key in ("seed", "cohort", "algorithm", "train")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def metrics(self) -> list[Metric]:
        x = self.experiment
        return [folder.load("metrics", name, "evaluation.metrics", x.plugins)() for name in x.evaluation.metrics]

    @property
    def algorithm(self) -> Algorithm:
        return self.experiment.algorithm

    @cached_property
    def up(self) -> Wire:
        return Wire(self.algorithm.up(self.shapes))

    @cached_property
    def down(self) -> Wire:
        return Wire(self.algorithm.down(self.shapes, self.cohort))

    @cached_property
    def trainees(self) -> tuple[Client, ...]:
        """Who may train, by number: the clients, and behind them, where the method pools all rows, the one who has all."""
        return (*self.clients, _everybody(self.clients)) if self.algorithm.pooled else self.clients

    @cached_property
    def names(self) -> list[str]:
        """Of all trainees."""
        return [c.name for c in self.trainees]

    @cached_property
    def rows(self) -> int:
        """Train rows of all clients."""
        return sum(len(c.train) for c in self.clients)

    @cached_property
    def lengths(self) -> dict[str, np.ndarray]:
        """By split, tokens of all rows of each trainee."""
        lengths = Corpus(self.corpus).lengths
        return {split: _sums(lengths, [getattr(c, split) for c in self.trainees]) for split in SPLITS}

    @cached_property
    def work(self) -> np.ndarray:
        """Of each trainee the tokens to expect in a round, whatever the learning rate makes of them."""
        train, rows = self.experiment.train, [len(c.train) for c in self.trainees]
        many = train.accumulate * (self.cohort if self.algorithm.pooled else 1)
        steps = np.array([train.local_steps(n, train.batch * many) for n in rows])
        return steps * train.batch * many * self.lengths["train"] / np.maximum(rows, 1)

    @property
    def turnover(self) -> int:
        """Clients that an actor may have had in two rounds: more of them need not stay in memory."""
        return 2 * -(-self.cohort // self.layout.actors) + self.layout.seats

    @cached_property
    def timeline(self) -> Rounds | Buffered | None:
        """The rounds on the simulated clock, if there is one."""
        return timeline(self)

    @property
    def buffered(self) -> Buffered | None:
        """The same, if rounds are asynchronous."""
        return self.timeline if isinstance(self.timeline, Buffered) else None

    @property
    def planned(self) -> tuple[int, ...]:
        """The numbers of as many as train in a round where nobody is late."""
        if self.algorithm.pooled:
            return (len(self.clients),)
        return cohort(self.experiment.seed, 0, len(self.clients), self.cohort)

    def taking_part(self, round: int) -> tuple[int, ...]:
        """The numbers of those who train in a round."""
        x, everybody = self.experiment, len(self.clients)
        if self.timeline is not None:
            return self.timeline.round(round).counted
        if x.privacy.dp.where != "none" and x.privacy.dp.sampling == "poisson" and self.cohort < everybody:
            return flipped(x.seed, round, everybody, self.cohort / everybody)
        return (everybody,) if x.algorithm.pooled else cohort(x.seed, round, everybody, x.cohort)

    def numbers(self, where: str) -> int:
        """How many trained numbers one client has in the parts that are `shared` or `private`."""
        parts = {p.name for p in self.algorithm.parts if p.where == where}
        return sum(prod(shape) for name, shape in self.shapes.items() if part_of(name) in parts and is_trained(name))


Columns = tuple[list[tuple[str, int, dict[str, int]]], tuple[tuple[np.ndarray, np.ndarray], ...]]


def _columns(clients: Sequence[Client]) -> Columns:
    """The same in few arrays: thousands of small ones would take far longer to cross."""
    own = [[getattr(c, split) for c in clients] for split in SPLITS]
    return [(c.name, c.dropped, c.labels) for c in clients], tuple(
        (np.concatenate(rows), np.cumsum([0, *map(len, rows)])) for rows in own
    )


def _clients(
    told: Sequence[tuple[str, int, dict[str, int]]], splits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[Client, ...]:
    """What `_columns` was made of; the rows are views."""
    own = [[rows[a:b] for a, b in pairwise(ends.tolist())] for rows, ends in splits]
    dealt = zip(told, *own, strict=True)
    return tuple(Client(name, train, valid, test, dropped, labels) for (name, dropped, labels), train, valid, test in dealt)


def _sums(values: np.ndarray, chosen: Sequence[np.ndarray]) -> np.ndarray:
    """Of each choice, the sum of the values."""
    ends = np.cumsum([0, *map(len, chosen)])
    sums = np.cumsum(np.concatenate([[0], values[np.concatenate(chosen)]]))
    return sums[ends[1:]] - sums[ends[:-1]]


def _everybody(clients: tuple[Client, ...]) -> Client:
    train, valid, test = (np.unique(np.concatenate([getattr(c, s) for c in clients])) for s in ("train", "valid", "test"))
    return Client("everybody", train, valid, test, 0, {})
