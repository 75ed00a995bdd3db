"""What finished runs leave for a comparison: every row's counts, side by side for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexray.comparison.spec import Cell
from flexray.errors import RunError
from flexray.sim import run_files
from flexray.sim.run_folder import RunFolder, Table
from flexray.statistics import Held

OWN_CORPUS = 1 << 40
"""Added to row numbers once per seed where every seed makes a corpus of its own, so that no row seems to come twice."""


@dataclass(frozen=True)
class Finished:
    """A finished run of a comparison. rows: columns client, row and every count, of one view."""

    cell: Cell
    summary: dict[str, Any]
    rounds: Table
    rows: dict[str, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """All runs' rows: by seed, by client, the counts in the order of labels and keys."""

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    scored: tuple[tuple[Held, ...], ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """Of all clients together, by seed."""
        return tuple(sum(len(held.rows_N) for held in clients) for clients in self.scored)


def finished(cell: Cell, path: Path, view: str) -> Finished | None:
    """A run's results, or None where it has not ended yet."""
    if not (path / "summary.json").exists():
        return None
    run, summary = RunFolder(path), run_files.summary(path)
    return Finished(cell, summary, run.table("rounds"), _columns(run.table("rows"), view, path))


def align(runs: Sequence[Finished], keys: Sequence[str], probe: bool = False) -> Samples:
    """These counts of the test rows, or of the probe's questions. Raises RunError where methods have scored others."""
    labels = tuple(dict.fromkeys(r.cell.label for r in runs))
    seeds = tuple(sorted({r.cell.seed for r in runs}))
    scored = tuple(_seed([r for r in runs if r.cell.seed == seed], labels, keys, probe) for seed in seeds)
    return Samples(labels, seeds, scored)


def _columns(table: Table, view: str, path: Path) -> dict[str, np.ndarray]:
    """A view's rows by column."""
    rows = [row for row in table if row["view"] == view]
    if not rows:
        raise RunError(f"{path}: expected scores of the view {view!r} by row, got none; was it run by an older version?")
    whole = {key: np.array([row[key] for row in rows], np.int64) for key in ("client", "row")}
    counts = [key for key in rows[0] if key not in (*whole, "name", "view", "round")]
    return whole | {key: np.array([row[key] or 0.0 for row in rows], float) for key in counts}


def _seed(runs: Sequence[Finished], labels: Sequence[str], keys: Sequence[str], probe: bool) -> tuple[Held, ...]:
    """One seed's clients, the same row at the same place for every method."""
    first, tables = runs[0].cell, [_having(run, keys, probe) for run in runs]
    client_N, row_N = tables[0][0], tables[0][1]
    counts_NMQ = np.full((len(row_N), len(labels), len(keys)), np.nan)
    for run, (clients, rows, counts_NQ) in zip(runs, tables, strict=True):
        if not (np.array_equal(clients, client_N) and np.array_equal(rows, row_N)):
            raise RunError(f"{run.cell.name} has scored other rows than {first.name}: they cannot be compared row by row")
        counts_NMQ[:, labels.index(run.cell.label)] = counts_NQ
    if first.experiment.data.path == "builtin" and not probe:
        row_N = row_N + first.seed * OWN_CORPUS
    return tuple(Held(row_N[client_N == c], counts_NMQ[client_N == c]) for c in np.unique(client_N))


def _having(run: Finished, keys: Sequence[str], probe: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Client, row [N] and counts [N, Q], by client and row. The probe's questions have numbers below 0."""
    if lacking := [key for key in keys if key not in run.rows]:
        raise RunError(f"{run.cell.name} has no counts {', '.join(lacking)} by row; was it run by an older version?")
    client, row, counts_NQ = run.rows["client"], run.rows["row"], np.stack([run.rows[key] for key in keys], 1)
    there = np.flatnonzero(((row < 0) == probe) & counts_NQ.any(1))  # a row without any count was not asked
    order = there[np.lexsort((row[there], client[there]))]
    return client[order], row[order], counts_NQ[order]
