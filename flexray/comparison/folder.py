"""A comparison's folder: what is there already, and whether it goes together with what is asked for now."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flexray import api
from flexray.comparison.overlay import differences
from flexray.comparison.spec import Cell, Spec, asked_for
from flexray.config import Experiment
from flexray.errors import ConfigError, expected
from flexray.findings import show
from flexray.local_files import absolute
from flexray.raw import read_yaml
from flexray.sim.planning.places import possible
from flexray.sim.planning.plan import Plan

SETTLED_ANEW = ("placement", "seats", "resources", "storage.cache", "tracking")
"""Keys of a run that may change when it goes on: they say where it is run and who is told, not what comes out."""


def run_of(path: Path, cell: Cell) -> Path:
    """A run's folder."""
    return path / "runs" / cell.name


def check_folder(spec: Spec, path: Path, resume: bool) -> None:
    """New, or begun with what is asked for now."""
    if not resume:
        possible(path, "--out")
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise expected("--out", "a new or empty folder", str(path), "name another, or go on with --resume")
        return
    now = {cell.name: cell for cell in spec.cells}
    for cell in asked_for(None, (), path).cells:
        if cell.name not in now:
            raise ConfigError(f"--resume: expected {cell.name} among the runs as before, got it no more; use another --out")
        _check_same(cell.name, cell.experiment, now[cell.name].experiment)
    for cell in spec.cells:
        if begun := begun_with(run_of(path, cell)):
            _check_same(cell.name, begun, cell.experiment)


def _check_same(name: str, before: Experiment, now: Experiment) -> None:
    changed = [
        f"{key}: expected {show(a)} as when {name} was begun, got {show(b)}; keep it, or use another --out"
        for key, a, b in differences(absolute(before.spec()), absolute(now.spec()))
        if not any(f"{key}.".startswith(f"{may}.") for may in SETTLED_ANEW)
    ]
    if changed:
        raise ConfigError(*changed)


def begun_with(path: Path) -> Experiment | None:
    """What a run was begun with."""
    return Experiment(**read_yaml(path / "config.yaml")) if (path / "config.yaml").exists() else None


def check_runs(spec: Spec) -> Plan:
    """Plan every run, so that none fails for what can be known now; gives the first plan."""
    plans = {cell.name: (cell, api.make_plan(cell.experiment)) for cell in spec.cells}
    first = {cell.seed: plan for cell, plan in reversed(plans.values())}
    for cell, plan in plans.values():
        tested = zip(plan.clients, first[cell.seed].clients, strict=False)
        if len(plan.clients) != len(first[cell.seed].clients) or not all(np.array_equal(a.test, b.test) for a, b in tested):
            raise ConfigError(
                f"compare.methods.{cell.label}: expected the same test rows at the same clients for all methods, got others with "
                f"seed {cell.seed}; set what deals the rows for all methods alike"
            )
    return plans[spec.cells[0].name][1]
