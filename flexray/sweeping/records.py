"""A sweep's folder: what was asked for, a record of every trial that was begun, and their run folders.

sweep.yaml (what was asked for); trials/NNN.json (one trial: its settings, and how it ended); runs/NNN (its run folder, like any
other); rounds.parquet, summary.json, best.yaml (made of them at the end). A trial whose run folder has its summary.json is finished,
whatever its record says, so that whatever stops a sweep, it goes on from its folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from flexray.comparison.overlay import differences
from flexray.errors import ConfigError, expected
from flexray.findings import show
from flexray.local_files import absolute
from flexray.sim import run_files
from flexray.sim.planning.places import possible
from flexray.sim.run_folder import RunFolder
from flexray.sweeping.spec import Point, Spec, asked_for

OVER = ("finished", "stopped", "failed")
MAY_CHANGE = (
    "sweep.budget", "sweep.samples", "sweep.jobs", "sweep.cpus", "sweep.metric", "sweep.view", "storage.cache", "resources.address",
)  # fmt: skip
"""Keys that may change when a sweep goes on: they leave every trial as it was begun."""


@dataclass(frozen=True)
class Record:
    """One trial. status: begun, finished, stopped (it did badly) or failed; cpus and gpus: its share; settled: with what `auto` chose."""

    number: int
    point: Point
    spec: dict[str, Any]
    cpus: float = 1.0
    gpus: float = 0.0
    actors: int = 1
    status: str = "begun"
    why: str | None = None

    @property
    def name(self) -> str:
        return f"{self.number:03d}"


class Records:
    """Reads and writes the trials of one sweep."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, number: int) -> Path:
        """A trial's run folder."""
        return self.path / "runs" / f"{number:03d}"

    def save(self, record: Record) -> None:
        (self.path / "trials").mkdir(parents=True, exist_ok=True)
        RunFolder(self.path / "trials").write_json(f"{record.name}.json", {**asdict(record), "spec": absolute(record.spec)})

    def read(self, number: int) -> Record | None:
        """A trial that was begun; with its run folder's word on whether it is finished."""
        file = self.path / "trials" / f"{number:03d}.json"
        if not file.exists():
            return None
        record = Record(**run_files.read_json(file, ("number", "point", "spec")))
        record = replace(record, point=absolute(record.point), spec=absolute(record.spec))
        return replace(record, status="finished", why=None) if (self.run(number) / "summary.json").exists() else record

    def all(self) -> list[Record]:
        """Every trial that was begun, by number."""
        numbers = sorted(int(file.stem) for file in (self.path / "trials").glob("[0-9]*.json"))
        return [record for number in numbers if (record := self.read(number))]

    def end(self, number: int, status: str, why: str | None = None) -> Record:
        """How a trial ended; a summary in its run folder overrules it."""
        record = self.read(number)
        assert record is not None
        if record.status != "finished":
            record = replace(record, status=status, why=why)
        self.save(record)
        return record

    def scores(self, number: int, view: str, metric: str) -> list[tuple[int, float]]:
        """Rounds played, and the mean over clients of a number after them, at every evaluation so far but the one before any round."""
        rows = [
            r for r in RunFolder(self.run(number)).table("clients") if (r["view"], r["metric"]) == (view, metric) and r["round"]
        ]
        by_round: dict[int, list[float]] = {}
        for row in rows:
            by_round.setdefault(row["round"], []).append(row["value"])
        return [(round, sum(values) / len(values)) for round, values in sorted(by_round.items())]

    def value(self, record: Record, spec: Spec) -> float | None:
        """The number to choose by of a finished trial."""
        if record.status != "finished":
            return None
        summary = run_files.summary(self.run(record.number))
        return summary["mean"][spec.sweep.view][spec.sweep.metric]


def check_folder(spec: Spec, path: Path, resume: bool) -> None:
    """New, or begun with what is asked for now."""
    if not resume:
        possible(path, "--out")
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise expected("--out", "a new or empty folder", str(path), "name another, or go on with --resume")
        return
    before = asked_for(None, (), path)
    changed = [
        f"{key}: expected {show(a)} as when the sweep was begun, got {show(b)}; keep it, or use another --out"
        for key, a, b in differences(before.dump(), spec.dump())
        if not any(f"{key}.".startswith(f"{may}.") for may in MAY_CHANGE)
    ]
    if changed:
        raise ConfigError(*changed)


def write_spec(spec: Spec, path: Path) -> None:
    """What was asked for, for going on."""
    path.mkdir(parents=True, exist_ok=True)
    RunFolder(path).write_text("sweep.yaml", yaml.safe_dump(spec.dump(), sort_keys=False, allow_unicode=True))


def left(spec: Spec, records: Records) -> Iterator[tuple[int, Point]]:
    """Trials of a list that are not over, by number; one that failed is tried again."""
    for number, point in enumerate(spec.points):
        record = records.read(number)
        if record is None or record.status in ("begun", "failed"):
            yield number, point
