"""A job: the checked experiment with everything that a process needs to take part in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from flexray import folder
from flexray.config import Experiment
from flexray.data.clients import Client
from flexray.metric import Metric
from flexray.sim.wire import Wire


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
class Job:
    """What crosses to every process: plain values and paths, no tensors.

    backbone: the converted model's folder; corpus: the tokenised table; private: where private state rests; shapes: of
    every trained tensor, per client.
    """

    spec: dict[str, Any]
    layout: Layout
    backbone: Path
    corpus: Path
    private: Path
    clients: tuple[Client, ...]
    shapes: dict[str, tuple[int, ...]]
    shared: tuple[str, ...]

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment(**self.spec)

    @cached_property
    def metrics(self) -> list[Metric]:
        x = self.experiment
        return [folder.load("metrics", name, "evaluation.metrics", x.plugins)() for name in x.evaluation.metrics]

    @cached_property
    def wire(self) -> Wire:
        return Wire({name: self.shapes[name] for name in self.shared})

    @property
    def private_numbers(self) -> int:
        """How many private numbers one client owns."""
        return sum(prod(shape) for name, shape in self.shapes.items() if name not in self.shared)
