"""What the simulated clock leaves behind: columns of the rounds' table, a table of turns, the bytes that crossed in vain, the summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flexray.errors import ConfigError
from flexray.sim.reports import ClientReport, Reports
from flexray.sim.system.turns import COUNTED, DISCARDED, DROPPED, LATE, LEFT, SENT, STALE, STATUS, VOID, RoundCourse

if TYPE_CHECKING:
    from flexray.sim.job import Job
    from flexray.sim.run_folder import RunFolder

FILE = "system.json"
"""What every client is like, and a digest of it."""
COUNTS = {"dropped": (DROPPED, LEFT), "late": (LATE,), "discarded": (DISCARDED, VOID, STALE)}
"""Columns of the rounds' table, and the turns they count."""


def settle(job: Job, folder: RunFolder, first: int) -> None:
    """Writes what clients are like, or, from round `first` on, checks that they are as they were: raises ConfigError."""
    if job.fleet is None:
        return
    file = folder.path / FILE
    if first and file.exists() and json.loads(file.read_text())["sha256"] != job.fleet.sha256:
        raise ConfigError(
            "system: expected the clients' speeds and intervals that the run was begun with, got others; put the files of "
            "system.profiles and system.availability back, or use a new --out"
        )
    folder.write_json(FILE, job.fleet.facts([c.name for c in job.clients]))


def unpaid(job: Job, course: RoundCourse) -> Reports:
    """Turns that did not count: what was sent to all of them, and what those sent who answered. Nothing was trained for them."""
    algorithm, turns = job.algorithm, course.turns
    found = []
    for client, status in zip(turns.client.tolist(), turns.status.tolist(), strict=True):
        if status != COUNTED:
            up = job.up.bytes_by_part(algorithm.cut(job.up.payload, client)) if status in SENT else {}
            found.append(
                ClientReport(client, 0.0, 0, 0, 0, up, job.down.bytes_by_part(algorithm.cut(job.down.payload, client)))
            )
    return Reports.of(found)


def row(course: RoundCourse, unpaid: Reports) -> dict[str, Any]:
    """A round's columns: seconds on the simulated clock that it took and at its end; of those who were selected how many fell silent or
    left, came after the deadline, or came in vain; bytes in vain; by how many rounds updates were late, at most and in the mean."""
    t = course.turns
    late = t.staleness[t.status == COUNTED]
    return {
        "simulated_seconds": course.seconds,
        "simulated_clock": course.ended,
        "selected": len(t),
        **{name: int(np.isin(t.status, status).sum()) for name, status in COUNTS.items()},
        "bytes_wasted": unpaid.bytes_up + unpaid.bytes_down,
        "staleness": float(late.mean()) if len(late) else 0.0,
        "staleness_most": int(late.max(initial=0)),
    }


def columns(course: RoundCourse) -> dict[str, Any]:
    """The table of turns; `seconds` is what the client took or would have taken, from `started` on."""
    t = course.turns
    return {
        "round": np.full(len(t), course.number),
        "client": t.client,
        "status": [STATUS[s] for s in t.status.tolist()],
        "started": t.started,
        "seconds": t.seconds,
        "staleness": t.staleness,
    }


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the rounds' table what summary.json holds under `simulated`; nothing where no clock was simulated."""
    if not rounds or "simulated_seconds" not in rounds[0]:
        return {}
    counts = {name: sum(r[name] for r in rounds) for name in ("selected", *COUNTS, "bytes_wasted")}
    counted = sum(r["clients"] for r in rounds)
    return {
        "simulated": {
            "seconds": rounds[-1]["simulated_clock"],
            **counts,
            "counted": counted,
            "void_rounds": sum(r["clients"] == 0 for r in rounds),
            "staleness": sum(r["staleness"] * r["clients"] for r in rounds) / max(counted, 1),
            "staleness_most": max(r["staleness_most"] for r in rounds),
        }
    }
