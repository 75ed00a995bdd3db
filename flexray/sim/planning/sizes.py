"""How much memory and disk a run will take, and the refusal of one for which there is not enough."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from flexray.errors import ConfigError
from flexray.sim.job import Job
from flexray.sim.planning import reckoned
from flexray.sim.planning.sample import Rows
from flexray.sim.planning.trial import Measured

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone

PROCESS = 300 << 20
"""What a client actor takes before it holds anything: Python, torch, transformers, Ray (benchmarks/memory.py)."""
DRIVER = 210 << 20
"""The same of the driver, which needs no transformers."""
TABLES = 40 << 20
"""What writing a run's tables takes, in the driver or, inline, in the process of all."""
RAY = 300 << 20
"""Ray's own processes on a node."""
COMMAND = 330 << 20
"""The process that starts a run, and stays while it goes on."""
READERS = 50 << 20
"""Tokenizer and questions, where metrics ask for them."""
KERNELS = 600 << 20
"""What the CPU's library keeps of kernels below 32 bits, one for each shape that it has met, up to a limit of its own."""
CONTEXT = 600 << 20
"""What a process takes of a GPU before it holds anything, where it was not measured."""
MARGIN = 1.05
"""What was measured may be that much more another time."""
SPARE = 0.9
"""Of what is free, so much may be planned with."""
GENERATIONS = 3
"""Of a client's private state on disk: two are kept while a third is written."""


@dataclass(frozen=True)
class Memory:
    """Bytes that are expected at the peak. backbone: on the CPU once on a node, on a GPU once in every actor; process: an actor
    that holds nothing yet but the sums of a round; work: what its clients take, on its device; driver; rest: Ray, and the process
    that starts the run.

    actors: on a node. On a GPU (`on_gpu`) it is shared by `sharing` actors, of which each takes `context` for being there.
    """

    backbone: int
    process: int
    work: int
    driver: int
    rest: int
    actors: int
    on_gpu: bool = False
    sharing: int = 1
    context: int = 0

    @property
    def actor(self) -> int:
        """By one actor, of its node's memory."""
        return self.process + (0 if self.on_gpu else self.work)

    @property
    def node(self) -> int:
        """All on one node."""
        return (0 if self.on_gpu else self.backbone) + self.actors * self.actor + self.driver + self.rest

    @property
    def more(self) -> int:
        """The same without the process that starts the run, which is there already."""
        return self.node - COMMAND

    @property
    def device(self) -> int:
        """All on one GPU."""
        return self.sharing * (self.context + self.backbone + self.work) if self.on_gpu else 0


@dataclass(frozen=True)
class Disk:
    """Private state at rest: of so many clients that train, `each` so many bytes."""

    trained: int
    each: int

    @property
    def bytes(self) -> int:
        return GENERATIONS * self.trained * self.each


def memory(job: Job, skeleton: Backbone, rows: Rows, nodes: int, found: Measured) -> Memory:
    """What a job takes on each node and device, by what was measured or else by a bound."""
    layout, inline = job.layout, job.experiment.resources.backend == "inline"
    on_gpu, measured = layout.device.startswith("cuda"), found.work(layout.seats)
    piling = skeleton.dtype.itemsize < 4 and not on_gpu  # a few steps would not show how far it goes
    work = layout.seats * reckoned.work(job, skeleton, rows) if measured is None or piling else ceil(MARGIN * measured)
    ray = 0 if inline else RAY
    return Memory(
        backbone=skeleton.bytes,
        process=(found.place.process or (0 if inline else PROCESS) + (READERS if job.kit else 0) + (KERNELS if piling else 0))
        + reckoned.sums(job),
        work=work + layout.seats * reckoned.generation(job, skeleton),
        driver=(0 if inline else DRIVER) + TABLES + reckoned.server(job),
        rest=COMMAND + ray,
        actors=ceil(layout.actors / nodes),
        on_gpu=on_gpu,
        sharing=max(1, int(1 / layout.gpu + 1e-9)) if on_gpu and layout.actors > 1 else 1,
        context=(found.place.context or CONTEXT) if on_gpu else 0,
    )


def check_memory(m: Memory, seats: int, node: int, device: int) -> None:
    """Refuses what does not fit into these free bytes of a node and of a GPU (0: not known)."""
    if m.more > SPARE * node:
        key, mend = _node_mend(m, seats)
        parts = f"{m.actors} × {_size(m.actor)} for actors, {_size(m.more - m.actors * m.actor)} beside them"
        raise ConfigError(
            f"{key}: expected a run that fits into the {_size(SPARE * node)} of memory that this node can spare, got {_size(m.more)} "
            f"({parts}); {mend}"
        )
    if device and m.device > SPARE * device:
        key, mend = _device_mend(m, seats)
        parts = f"backbone {_size(m.backbone)}, training {_size(m.work)}, the process {_size(m.context)}"
        shared = f"{m.sharing} actors with each " if m.sharing > 1 else ""
        raise ConfigError(
            f"{key}: expected clients that fit into the {_size(SPARE * device)} that one GPU can spare, got {_size(m.device)} "
            f"({shared}{parts}); {mend}"
        )


def disk(job: Job, each: int) -> Disk:
    """Of the clients that ever train, at the most."""
    return Disk(min(len(job.trainees), job.experiment.rounds * len(job.planned)), each)


def has_room(d: Disk, path: Path) -> bool:
    """Whether private state fits where it shall rest."""
    free = _free(path)
    return d.bytes <= SPARE * free or d.bytes <= SPARE * (free + _held(path))


def check_disk(d: Disk, path: Path) -> None:
    """Refuses private state for which there is no room."""
    if has_room(d, path):
        return
    raise ConfigError(
        f"storage.private: expected a disk with {_size(d.bytes)} free, for the private state of {d.trained:,} clients "
        f"({_size(d.each)} each, {GENERATIONS} times while it trains), got {_size(_free(path))} at {str(path)!r}; name a larger one"
    )


def _free(path: Path) -> int:
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


def _held(path: Path) -> int:
    """Bytes of the private state that is there already: a run that goes on writes over it."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.exists() else 0


def _node_mend(m: Memory, seats: int) -> tuple[str, str]:
    if m.actors > 1:
        return "resources.cpu_per_client", "raise it, so that fewer actors are on a node"
    if seats > 1 and not m.on_gpu:
        return "seats", "lower it"
    return "train.batch", "lower it, or data.max_length; or set train.recompute"


def _device_mend(m: Memory, seats: int) -> tuple[str, str]:
    if m.sharing > 1:
        return "resources.gpu_per_client", "raise it, so that fewer actors share a GPU"
    if seats > 1:
        return "seats", "lower it"
    return (
        "model.path",
        "choose a smaller model or model.dtype, lower train.batch, or set train.recompute: a client is on one GPU",
    )


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
