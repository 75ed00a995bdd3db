"""left_out.json in the run folder: who was left out of which round or evaluation, and why. It is there if anybody was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flexray.sim import run_files
from flexray.sim.failure import Doing, Trouble
from flexray.sim.job import Job
from flexray.sim.run_folder import RunFolder

FILE = "left_out.json"
Row = dict[str, Any]


def load(folder: RunFolder) -> list[Row]:
    """One row for each client and round (of which the client was left out; or before which it was not scored)."""
    file = folder.path / FILE
    return run_files.read_json(file, ("round", "doing", "client")) if file.exists() else []


def save(folder: RunFolder, job: Job, round: int, doing: Doing, out: Sequence[Trouble]) -> None:
    """Those of a round, in place of what was known of it."""
    rows = [
        {"round": round, "doing": doing, "client": c, "name": job.trainees[c].name, "attempts": t.attempts, "why": t.why}
        for t in out
        for c in t.clients
    ]
    before = load(folder)
    _write(folder, before, [row for row in before if (row["round"], row["doing"]) != (round, doing)] + rows)


def forget_after(folder: RunFolder, round: int) -> None:
    """What is of rounds that were never finished, and of evaluations after these."""
    before = load(folder)
    _write(folder, before, [row for row in before if row["round"] <= round + (row["doing"] == "scoring")])


def _write(folder: RunFolder, before: list[Row], rows: list[Row]) -> None:
    rows.sort(key=lambda row: (row["round"], row["doing"], row["client"]))
    if rows != before:
        folder.write_json(FILE, rows)
