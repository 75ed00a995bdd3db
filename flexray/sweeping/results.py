"""What came of a sweep: its tables, its best settings, and the files made of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from flexray.errors import ConfigError, RunError
from flexray.sim import run_files
from flexray.sim.run_folder import RunFolder, Table
from flexray.sim.tables import table
from flexray.sweeping.effects import Effect, Interaction, Setting, effects, interactions, settings
from flexray.sweeping.records import Record, Records
from flexray.sweeping.spec import Spec, asked_for

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Sweep:
    """A sweep, finished or not."""

    path: Path
    spec: Spec

    @cached_property
    def records(self) -> list[Record]:
        """Every trial that was begun."""
        return Records(self.path).all()

    @property
    def failures(self) -> dict[str, str]:
        """By trial, what went wrong."""
        return {r.name: r.why or "" for r in self.records if r.status == "failed"}

    def count(self, status: str) -> int:
        return sum(r.status == status for r in self.records)

    @property
    def left(self) -> int:
        """Trials that are not over."""
        return self.spec.most - sum(map(self.count, ("finished", "stopped", "failed")))

    @overload
    def trials(self, kind: Literal["arrow"] = "arrow") -> pa.Table: ...
    @overload
    def trials(self, kind: Literal["pandas"]) -> DataFrame: ...
    def trials(self, kind: Literal["arrow", "pandas"] = "arrow") -> pa.Table | DataFrame:
        """A row per trial: its number, status and settings, and of a finished one its means over clients, as `view.number`."""
        return table([self._about(r) | self._ended_with(r) for r in self.records], kind)

    @overload
    def rounds(self, kind: Literal["arrow"] = "arrow") -> pa.Table: ...
    @overload
    def rounds(self, kind: Literal["pandas"]) -> DataFrame: ...
    def rounds(self, kind: Literal["arrow", "pandas"] = "arrow") -> pa.Table | DataFrame:
        """A row per trial and number of rounds played (0: before any): the last round's loss, tokens, bytes and seconds, and where
        clients were scored then, the means over them as `view.number`."""
        return table([row for r in self.records for row in self._played(r)], kind)

    @cached_property
    def settings(self) -> list[Setting]:
        """Settings with a finished trial, the best first."""
        view, metric, records = self.spec.sweep.view, self.spec.sweep.metric, Records(self.path)
        done = [r for r in self.records if r.status == "finished"]
        values = {r.number: run_files.summary(records.run(r.number))["mean"][view][metric] for r in done}
        return settings([(r.number, r.point, values[r.number]) for r in done], self.spec.less)

    @property
    def best(self) -> Setting | None:
        """The setting with the best mean over its seeds, of those with the most finished seeds."""
        most = max((len(s.trials) for s in self.settings), default=0)
        return next((s for s in self.settings if len(s.trials) == most), None)

    @cached_property
    def effects(self) -> list[Effect]:
        return effects(self.settings)

    @cached_property
    def interactions(self) -> list[Interaction]:
        return interactions(self.settings)

    def facts(self) -> dict[str, Any]:
        """What summary.json holds."""
        s = self.spec.sweep
        return {
            "path": str(self.path),
            "metric": s.metric,
            "view": s.view,
            "split": "valid",
            "less_is_better": self.spec.less,
            "trials": {status: self.count(status) for status in ("finished", "stopped", "failed")} | {"left": self.left},
            "failures": self.failures,
            "settings": [{"setting": x.point, "mean": x.mean, "sd": x.sd, "trials": list(x.trials)} for x in self.settings],
            "effects": [{"key": e.key, "share": e.share, "levels": [vars(level) for level in e.levels]} for e in self.effects],
            "interactions": [{"keys": list(i.keys), "share": i.share} for i in self.interactions],
        }

    def _about(self, r: Record) -> dict[str, Any]:
        return {"trial": r.number, "status": r.status, **{key: _cell(value) for key, value in r.point.items()}}

    def _ended_with(self, r: Record) -> dict[str, Any]:
        file = Records(self.path).run(r.number) / "summary.json"
        if not file.exists():
            return {"why": r.why}
        summary = run_files.summary(file.parent)
        means = {f"{view}.{name}": value for view, values in summary["mean"].items() for name, value in values.items()}
        return {
            "why": None,
            **means,
            "bytes_up": summary["bytes"]["up"],
            "tokens": summary["tokens"],
            "seconds": summary["seconds"]["rounds"],
        }

    def _played(self, r: Record) -> Table:
        folder = RunFolder(Records(self.path).run(r.number))
        scores: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in folder.table("clients"):
            scores[row["round"]][f"{row['view']}.{row['metric']}"].append(row["value"])
        played = {row["round"] + 1: {k: v for k, v in row.items() if k != "round"} for row in folder.table("rounds")}
        means = {n: {name: sum(v) / len(v) for name, v in found.items()} for n, found in scores.items()}
        return [self._about(r) | {"round": n} | played.get(n, {}) | means.get(n, {}) for n in sorted({*played, *means})]


def load_sweep(path: Path | str) -> Sweep:
    """A sweep from its folder, finished or not."""
    path = Path(path)
    if not (path / "sweep.yaml").exists():
        raise ConfigError(f"sweep: expected the folder of a sweep, got {str(path)!r} without sweep.yaml; name another")
    return Sweep(path, asked_for(None, (), path))


def gathered(spec: Spec, path: Path) -> Sweep:
    """What came of the trials so far, written into the sweep's folder too. Raises RunError where none is finished."""
    made, folder = Sweep(path, spec), RunFolder(path)
    if made.count("finished"):
        pq.write_table(made.rounds(), path / ".rounds.tmp")
        (path / ".rounds.tmp").replace(path / "rounds.parquet")
        folder.write_json("summary.json", made.facts())
        folder.write_text("best.yaml", yaml.safe_dump(_to_play(spec, made.best), sort_keys=False, allow_unicode=True))
        return made
    why = [f"{name}: {reason}" for name, reason in made.failures.items()]
    raise RunError("\n".join((f"no trial of {path} is finished", *why)))


def _to_play(spec: Spec, best: Setting | None) -> dict[str, Any]:
    """The best setting as a config of its own, to be scored on test rows."""
    assert best is not None
    x = spec.experiment({**best.point, **({"seed": spec.seeds[0]} if spec.seeds else {})}).spec()
    return x | {"evaluation": x["evaluation"] | {"split": "test"}}


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple, Mapping)) else value
