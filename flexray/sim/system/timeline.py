"""From a job to its rounds on the simulated clock, and what is to be expected of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flexray.errors import expected
from flexray.sim.schedule import cohort_size
from flexray.sim.system.buffered import Buffered
from flexray.sim.system.rounds import Rounds
from flexray.sim.system.turns import Pace

if TYPE_CHECKING:
    from flexray.sim.job import Job

LOOKED_AT = 50
"""Rounds from the first on, of which is told what is to be expected."""


def updates(x: Any, clients: int) -> int:
    """Of an Experiment with so many clients, how many make a round where nobody is late."""
    s = x.system
    if s.mode == "async":
        for key, got in (("buffer", s.buffer), ("concurrency", s.concurrency)):
            if got and got > clients:
                raise expected(f"system.{key}", f"at most {clients} (clients)", got, "lower it")
        return s.buffer
    return cohort_size(clients, x.cohort)


def timeline(job: Job) -> Rounds | Buffered | None:
    """None where no clock is simulated."""
    if job.fleet is None:
        return None
    x, n = job.experiment, len(job.clients)
    down, up = (
        np.array([float(wire.bytes(job.algorithm.cut(wire.payload, client))) for client in range(n)])
        for wire in (job.down, job.up)
    )
    pace = Pace(job.fleet, job.work[:n].astype(float), down, up, x.seed)
    if x.system.mode == "sync":
        return Rounds(x.system, pace, None if x.cohort is None else job.cohort)
    _check_linear(job)
    return Buffered(x.system, pace, job.cohort, x.system.concurrency or cohort_size(n, x.cohort))


def _check_linear(job: Job) -> None:
    """Updates that began from different states are added as differences: what goes up must be what came down, and all of it."""
    algorithm, up = job.algorithm, job.up.payload
    cut = any(algorithm.cut(up, client) != up for client in range(len(job.clients)))
    if up != job.down.payload or up.aux or cut:
        what = (
            "auxiliary state goes up"
            if up.aux
            else "clients send parts of different size"
            if cut
            else "other things go up than down"
        )
        raise expected("system.mode", f"sync with {algorithm.name}, where {what}", "async", "drop it")


@dataclass(frozen=True)
class Outlook:
    """Of the first `rounds`: simulated seconds of all and at most of one, how many turns were begun for how many that counted, and rounds
    that were void."""

    rounds: int
    seconds: float
    longest: float
    turns: int
    counted: int
    void: int


def outlook(job: Job) -> Outlook | None:
    """None where no clock is simulated."""
    if job.timeline is None:
        return None
    seen = [job.timeline.round(r) for r in range(min(job.experiment.rounds, LOOKED_AT))]
    seconds, counted = [c.seconds for c in seen], [len(c.counted) for c in seen]
    return Outlook(
        len(seen), seen[-1].ended, max(seconds), sum(len(c.turns) for c in seen), sum(counted), sum(n == 0 for n in counted)
    )


def latest(job: Job) -> int:
    """By how many rounds updates are late at most, as far as one looks ahead."""
    if (course := job.buffered) is None:
        return 0
    return max(tau for r in range(min(job.experiment.rounds, LOOKED_AT)) for tau in course.round(r).staleness.values())
