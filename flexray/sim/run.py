"""A run from start to end: rounds, evaluation, checkpoints, the run folder. Knows pools, not Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from flexray.models import backbone as backbones
from flexray.sim import schedule
from flexray.sim.host import Scores
from flexray.sim.job import Job
from flexray.sim.round import Exam, Pool, RoundReport, examine, play
from flexray.sim.run_folder import RunFolder, Table
from flexray.sim.store import PrivateStore
from flexray.sim.summary import summarise
from flexray.sim.trainer import start_of
from flexray.state import ServerState, Update

VIEWS = ("base", "shared", "personal")
"""The frozen model · with the shared parts · with the private parts too."""


@dataclass(frozen=True)
class Started:
    """The actors are up. round: the first one to play."""

    round: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """A slice of a round has come back."""

    round: int
    clients: int
    of: int
    loss: float
    tokens: int


@dataclass(frozen=True)
class RoundDone:
    """A round is finished and saved."""

    report: RoundReport


@dataclass(frozen=True)
class Evaluated:
    """Clients have been scored as they are before `round`: the mean over them of every metric, per view."""

    round: int
    clients: int
    means: dict[str, dict[str, float]]
    seconds: float


@dataclass(frozen=True)
class Finished:
    """The run is over; what summary.json holds."""

    summary: dict[str, Any]


Event = Started | Progress | RoundDone | Evaluated | Finished


def run(job: Job, make_pool: Callable[[Job], Pool], out: Path, resume: bool = False) -> Iterator[Event]:
    """Plays the rounds that are left, and yields what happens. The folder `out` exists and holds the resolved config."""
    started = perf_counter()
    folder, experiment = RunFolder(out), job.experiment
    pool = make_pool(job)
    try:
        state, first = _begin(job, folder, resume)
        yield Started(first, perf_counter() - started)
        for round in range(first, experiment.rounds):
            if round % experiment.evaluation.every == 0:
                yield _evaluate(job, pool, folder, state, round, last=False)
            for what in play(job, experiment.algorithm, pool, state, round):
                if isinstance(what, tuple):
                    state, report = what
                    folder.save_round(job, state, report)
                    yield RoundDone(report)
                else:
                    yield _progress(round, job, what)
        yield _evaluate(job, pool, folder, state, experiment.rounds, last=True)
        summary = summarise(job, folder, pool.actors)
        folder.finish(summary)
        yield Finished(summary)
    finally:
        pool.close()


def _begin(job: Job, folder: RunFolder, resume: bool) -> tuple[ServerState, int]:
    """The server's state and the first round to play."""
    if resume and (saved := folder.load_server()):
        state, round = saved
        PrivateStore(job.private, [c.name for c in job.clients]).forget_after(round)
        folder.forget_after(round)
        return state, round + 1
    x = job.experiment
    return ServerState(Update(start_of(x.algorithm, backbones.skeleton(x.model, x.plugins), x.seed))), 0


def _evaluate(job: Job, pool: Pool, folder: RunFolder, state: ServerState, round: int, last: bool) -> Evaluated:
    """Scores clients before `round`; the frozen base only once per client, as it never changes."""
    started = perf_counter()
    clients = _examined(job, round, last)
    known = folder.scored("base")
    sent = job.wire.pack_one(state.sent)
    scores: Scores = {}
    for views, chosen in ((VIEWS, [c for c in clients if c not in known]), (VIEWS[1:], [c for c in clients if c in known])):
        groups = schedule.groups(chosen, job.layout.seats)
        scores |= examine(pool, Exam(round, groups, sent, views)) if groups else {}
    seconds = perf_counter() - started
    means = folder.save_scores(_rows(job, round, scores), round, seconds)
    return Evaluated(round, len(clients), means, seconds)


def _examined(job: Job, round: int, last: bool) -> list[int]:
    x, everybody = job.experiment, list(range(len(job.clients)))
    if last or x.evaluation.clients == "all":
        return everybody
    if x.evaluation.clients == "cohort":
        return list(schedule.cohort(x.seed, round, len(job.clients), x.cohort))
    rng = np.random.default_rng(np.random.SeedSequence([x.seed, round, 0xE7A1]))
    return sorted(rng.permutation(len(everybody))[: x.evaluation.clients].tolist())


def _rows(job: Job, round: int, scores: Scores) -> Table:
    """One row per client, view and metric."""
    return [
        {"round": round, "client": client, "name": job.clients[client].name, "view": view, "metric": name, "value": value}
        for client, views in sorted(scores.items())
        for view, counts in views.items()
        for metric, count in zip(job.metrics, counts, strict=True)
        for name, value in metric.value(count).items()
    ]


def _progress(round: int, job: Job, report: Any) -> Progress:
    of = len(schedule.cohort(job.experiment.seed, round, len(job.clients), job.experiment.cohort))
    clients = report.clients
    loss = sum(c.loss for c in clients) / len(clients)
    return Progress(round, len(clients), of, loss, sum(c.tokens for c in clients))
