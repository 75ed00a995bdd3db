"""What was measured before a run, put together and remembered, so that what is chosen by it stays."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from math import ceil, log2
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch

from flexray import folder
from flexray.sim.planning.apart import Runner
from flexray.sim.planning.measure import Ask, Place, Scoring, Turn
from flexray.sim.planning.sample import Rows

FORMAT = 1
"""Raise when other things are measured, or otherwise."""
MILD = ("lr", "final_lr", "private_lr", "schedule", "warmup_rounds", "warmup_steps", "weight_decay", "steps", "epochs")
"""Settings of training that do not change what a step costs."""
F = TypeVar("F", Turn, Scoring)


@dataclass(frozen=True)
class Measured:
    """What all processes found: times are means over them, bytes the most. turns: by seats; why: what kept it from being whole."""

    turns: dict[int, Turn] = field(default_factory=dict)
    place: Place = Place(0)
    scoring: Scoring | None = None
    why: str = ""

    def at(self, seats: int) -> Turn:
        """A turn in any number of seats: on the line through the two that were measured, or in proportion to the only one."""
        low, high = min(self.turns), max(self.turns)
        a, b = self.turns[low], self.turns[high]

        def line(name: str) -> Any:
            y, z = getattr(a, name), getattr(b, name)
            if y is None or z is None:
                return None
            return max(y + (z - y) * (seats - low) / (high - low) if high > low else z * seats / high, 0)

        weight = line("bytes")
        return Turn(seats, line("step"), line("fixed"), line("first"), None if weight is None else ceil(weight))

    def work(self, seats: int) -> int | None:
        """Bytes that so many clients take, if it was measured."""
        return self.at(seats).bytes if self.turns else None


def measure(ask: Ask, processes: int, runner: Runner) -> Measured:
    """Now, on this machine or wherever the runner has its processes."""
    found = runner(ask, processes)
    whole = [x for one in found for x in one]
    last = [{x.seats: x for x in one if isinstance(x, Turn)} for one in found]
    turns = {k: _joined([own[k] for own in last]) for k in ask.seats if last and all(k in own for own in last)}
    scorings = [x for x in whole if isinstance(x, Scoring)]
    return Measured(
        turns,
        next((x for x in whole if isinstance(x, Place)), Place(0)),
        _joined(scorings) if scorings else None,
        next((x for x in whole if isinstance(x, str)), "" if turns else "no answer"),
    )


def remembered(ask: Ask, processes: int, runner: Runner, cache: Path) -> Measured:
    """Measured once for this work on this kind of machine: another time it might be found otherwise by a hair."""
    from filelock import FileLock

    note = cache / "measured" / f"{_key(ask)}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(note.with_suffix(".lock")):
        if note.exists():
            return _read(note)
        found = measure(ask, processes, runner)
        if ask.seats[0] in found.turns:
            draft = note.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(asdict(found)))
            draft.rename(note)
        return found


def _joined(found: Sequence[F]) -> F:
    """One of several: times are means, bytes the most."""
    first, values = found[0], {}
    for name in (f.name for f in fields(first)):
        each: list[Any] = [getattr(x, name) for x in found]
        values[name] = (None if None in each else max(each)) if name in ("seats", "bytes") else fmean(each)
    return type(first)(**values)


def _read(note: Path) -> Measured:
    said = json.loads(note.read_text())
    turns = {int(seats): Turn(**turn) for seats, turn in said["turns"].items()}
    return Measured(turns, Place(**said["place"]), Scoring(**said["scoring"]) if said["scoring"] else None, said["why"])


def _key(ask: Ask) -> str:
    """Another one whenever the measurement would be of other work, or on another kind of machine."""
    job, spec = ask.job, ask.job.spec
    rows = Rows(job)
    says = [
        FORMAT, torch.__version__, _machine(), job.layout.device, job.layout.threads, job.layout.actors, ask.seats, ask.whole,
        job.backbone.name, job.kit.name if job.kit else None, job.shapes, spec["algorithm"],
        {key: value for key, value in spec["train"].items() if key not in MILD},
        {key: spec["evaluation"][key] for key in ("metrics", "batch", "max_new_tokens", "inside_rows", "when")},
        {name: folder.digest(text) for name, text in job.experiment.plugins.items()},
        [round(4 * log2(tokens)) for tokens in (rows.step_tokens, rows.heavy_tokens)],  # those of another seed's rows are as good
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(says, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _machine() -> list[str]:
    """Its processors, CPUs and GPUs, by their models."""
    files = [Path("/proc/cpuinfo"), *sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    lines = (line for file in files if file.exists() for line in file.read_text().splitlines())
    return [" ".join(line.split()) for line in lines if line.lower().startswith("model")]
