"""A job: the checked experiment with everything that a process needs to take part in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from flexray import folder
from flexray.algorithm import Algorithm
from flexray.config import Experiment
from flexray.data.clients import Client
from flexray.metric import Metric
from flexray.models.seats import is_trained
from flexray.sim.schedule import cohort
from flexray.sim.wire import Wire
from flexray.state import part_of


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
    every trained tensor, per client; kit: what scoring needs besides the corpus.
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

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment(**self.spec)

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

    def taking_part(self, round: int) -> tuple[int, ...]:
        """The numbers of those who train in a round."""
        x = self.experiment
        return (len(self.clients),) if x.algorithm.pooled else cohort(x.seed, round, len(self.clients), x.cohort)

    def numbers(self, where: str) -> int:
        """How many trained numbers one client has in the parts that are `shared` or `private`."""
        parts = {p.name for p in self.algorithm.parts if p.where == where}
        return sum(prod(shape) for name, shape in self.shapes.items() if part_of(name) in parts and is_trained(name))


def _everybody(clients: tuple[Client, ...]) -> Client:
    train, valid, test = (np.unique(np.concatenate([getattr(c, s) for c in clients])) for s in ("train", "valid", "test"))
    return Client("everybody", train, valid, test, 0, {})
