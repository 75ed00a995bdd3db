"""From the events of a run to its trackers: which numbers they are told at which step, and that a run outlives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from flexray import folder
from flexray.config import Experiment
from flexray.errors import expected
from flexray.sim import run_files
from flexray.sim.events import Evaluated, Event, Finished, RoundDone, Started
from flexray.sim.round import RoundReport
from flexray.sim.run_folder import RunFolder
from flexray.tracker import About, Tracker

FILE = "tracking.json"
"""Under which name each tracker knows the run, and after how many rounds it was told last, of training and of scores."""
SIMULATED = ("simulated_seconds", "simulated_clock", "selected", "clients", "staleness")
INSIDE = ("entropy", "drift", "gate.", "share.")


def chosen(x: Experiment) -> list[Tracker]:
    """The trackers of an experiment. Raises ConfigError where a package is missing."""
    found = []
    for i, name in enumerate(x.tracking):
        tracker = folder.load("trackers", name, f"tracking.{i}", x.plugins)()
        if find_spec(tracker.needs) is None:
            raise expected("tracking", f"the package {tracker.needs} to be installed", name, f"pip install {tracker.needs}")
        found.append(tracker)
    return found


@dataclass
class Told:
    """What one tracker knows: the run by this name, and numbers up to these rounds (−1: none yet)."""

    known: str | None = None
    train: int = -1
    scores: int = -1


@dataclass
class Tracking:
    """Called with every event of a run. Nothing is told twice, however often the run is resumed."""

    trackers: list[Tracker]
    path: Path
    config: Mapping[str, Any]
    told: dict[str, Told] = field(default_factory=dict)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(False)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event.round)
        elif isinstance(event, RoundDone):
            self._tell("train", event.report.round + 1, of_round(event.report))
        elif isinstance(event, Evaluated):
            self._tell("scores", event.round, of_scores(event) | of_inside(RunFolder(self.path), event.round))
        elif isinstance(event, Finished):
            self._end(True)

    def _start(self, round: int) -> None:
        file = self.path / FILE
        if round and file.exists():
            told = run_files.read_json(file)
            self.told = {
                name: Told(**how) for name, how in told.items() if isinstance(how, dict) and how.keys() <= vars(Told()).keys()
            }
        for tracker in list(self.trackers):
            told = self.told.setdefault(tracker.name, Told())
            self._guarded(
                tracker, lambda t=tracker, s=told: setattr(s, "known", t.open(About(self.path, self.config, s.known)))
            )
        self._keep()

    def _tell(self, what: str, step: int, numbers: Mapping[str, float]) -> None:
        for tracker in list(self.trackers):
            told = self.told[tracker.name]
            if step > getattr(told, what) and self._guarded(tracker, lambda t=tracker: t.tell(step, numbers)):
                setattr(told, what, step)
        self._keep()

    def _end(self, finished: bool) -> None:
        while self.trackers:
            tracker = self.trackers[0]
            if tracker.name in self.told:
                self._guarded(tracker, lambda t=tracker: t.close(finished))
            self.trackers = self.trackers[1:]

    def _keep(self) -> None:
        if self.told:
            RunFolder(self.path).write_json(FILE, {name: vars(told) for name, told in self.told.items()})

    def _guarded(self, tracker: Tracker, do: Callable[[], Any]) -> bool:
        """Whether it went well; a tracker that fails is left out from then on."""
        try:
            do()
            return True
        except Exception as e:
            self.trackers = [other for other in self.trackers if other is not tracker]
            logging.getLogger("flexray").warning(
                "tracking: %s failed and is told nothing more: %s: %s. The run goes on.",
                tracker.name,
                type(e).__name__,
                str(e).rstrip("."),
            )
            return False


def of_round(r: RoundReport) -> dict[str, float]:
    """A round's numbers by name: those that are any (nobody may have taken part, and ε be without bound)."""
    row = r.row
    simulated = {f"simulated/{name}": float(row[name]) for name in SIMULATED if r.course}
    every = {
        "train/loss": r.loss,
        "train/tokens_per_second": r.tokens / r.seconds if r.seconds else 0.0,
        "bytes/up": float(row["bytes_up"]),
        "bytes/down": float(row["bytes_down"]),
        "seconds/training": r.seconds_training,
        "seconds/communication": r.seconds_communication,
        "seconds/waiting": r.seconds_waiting,
        **{f"privacy/{name}": value for name, value in r.privacy.items()},
        **simulated,
    }
    return {name: value for name, value in every.items() if isfinite(value)}


def of_scores(what: Evaluated) -> dict[str, float]:
    """Means over clients, by split, number and view."""
    return {f"{what.split}_{name}/{view}": value for view, scores in what.means.items() for name, value in scores.items()}


def of_inside(files: RunFolder, round: int) -> dict[str, float]:
    """Means over clients and blocks of what an evaluation saw inside them."""
    rows = [row for row in files.last_inside() if row["round"] == round]
    names = [name for name in (rows[0] if rows else {}) if name in INSIDE or name.startswith(INSIDE[2:])]
    return {f"inside/{name}": fmean(row[name] for row in rows) for name in names}
