"""A trial, in a process of its own: a run from its start, or from where its folder is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from flexray import api
from flexray.config import Experiment
from flexray.errors import ConfigError, RunError
from flexray.sim.events import Evaluated, RoundDone
from flexray.sim.holding import GONE_SECONDS, alone
from flexray.sweeping.records import Record, Records

Tell = Callable[[dict[str, Any]], None]
"""Tells whoever leads the sweep how far a trial is: `round`, `value` where clients were scored, and at the end `failure`."""


@dataclass(frozen=True)
class Play:
    """How trials are played. here: where relative paths begin; view, metric: the number to choose by; keep: keeps a traceback."""

    records: Records
    here: Path
    view: str
    metric: str
    keep: Callable[[BaseException, Path], Path | None]

    def __call__(self, number: int, tell: Tell) -> None:
        """A failure of the run is told, not raised."""
        record, folder = self.records.read(number), self.records.run(number)
        assert record is not None
        rounds = record.spec["rounds"]

        def told(event: Any) -> None:
            if isinstance(event, RoundDone) and event.report.round + 1 < rounds:
                tell({"round": event.report.round + 1})
            elif isinstance(event, Evaluated):
                value = self._finite(event.round, event.means[self.view][self.metric])
                if 0 < event.round < rounds:
                    tell({"round": event.round, "value": value})

        failure, last = None, {}
        try:
            with alone(folder.absolute(), "--resume", patience=GONE_SECONDS):  # until who was killed writes no more
                before = self.records.scores(number, self.view, self.metric)
            for round, value in before:  # schedulers must know it too
                tell({"round": round, "value": self._finite(round, value)})
            with chdir(self.here):
                done = _run(record, folder, told)
            last = {"round": rounds, "value": done.summary["mean"][self.view][self.metric]}
        except (ConfigError, RunError) as e:
            failure = str(e).partition("\n")[0]
        except Exception as e:
            kept = self.keep(e, folder)
            failure = f"{type(e).__name__}: {e}" + (f" (the traceback is in {kept})" if kept else "")
        tell({**last, "failure": failure})

    def _finite(self, round: int, value: float) -> float:
        """No scheduler and no search can make anything of another number."""
        if not isfinite(value):
            raise RunError(f"after round {round} the {self.metric} is {value:g}: the model has diverged")
        return value


def _run(record: Record, folder: Path, told: Callable[[Any], None]) -> api.Run:
    """By this process alone, or by actors that it leads."""
    x = Experiment(**record.spec)
    backend = "inline" if record.actors == 1 else "ray"
    x = x.model_copy(update={"resources": x.resources.model_copy(update={"backend": backend})})
    return api.simulate(x, folder, resume=any(folder.iterdir()), watch=told, there={"CPU": record.cpus, "GPU": record.gpus})
