"""A run from start to end: rounds, evaluation, checkpoints, the run folder. Knows pools, not Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from flexray.metric import Number
from flexray.sim import schedule
from flexray.sim.job import Job
from flexray.sim.reports import Scores
from flexray.sim.round import Exam, Pool, RoundReport, Server, examine, play
from flexray.sim.run_folder import RunFolder, Table
from flexray.sim.store import PrivateStore
from flexray.sim.summary import VIEWS, numbers_of, summarise


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
    split: str = "test"
    numbers: Mapping[str, Number] = field(default_factory=dict)
    """How each number of `means` reads."""


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
        server, first = _begin(job, pool, folder, resume)
        yield Started(first, perf_counter() - started)
        for round in range(first, experiment.rounds):
            if (every := experiment.evaluation.every) and round % every == 0:
                yield _evaluate(job, pool, folder, server, round, last=False)
            for what in play(job, pool, server, round):
                if isinstance(what, tuple):
                    server, report = what
                    folder.save_round(server, report)
                    yield RoundDone(report)
                else:
                    yield _progress(round, job, what)
        yield _evaluate(job, pool, folder, server, experiment.rounds, last=True)
        summary = summarise(job, folder, pool.actors)
        folder.finish(summary)
        yield Finished(summary)
    finally:
        pool.close()


def _begin(job: Job, pool: Pool, folder: RunFolder, resume: bool) -> tuple[Server, int]:
    """The server and the first round to play."""
    if resume and (saved := folder.load_server()):
        server, round = saved
        PrivateStore(job.private, [c.name for c in job.trainees]).forget_after(round)
        folder.forget_after(round)
        return server, round + 1
    clusters = _clusters(job, pool, folder)
    state = job.algorithm.open(job.down.unpack(pool.open()))
    return Server((state,) * (max(clusters, default=0) + 1), clusters), 0


def _clusters(job: Job, pool: Pool, folder: RunFolder) -> tuple[int, ...]:
    """Every client's cluster, by what the clients tell once; empty where the method asks nothing."""
    if not job.algorithm.surveys:
        return ()
    groups = schedule.groups(range(len(job.clients)), job.layout.seats)
    told = {client: state for answers in pool.survey(groups) for client, state in answers.items()}
    folder.save_survey(told)
    every = [told[client] for client in range(len(job.clients))]
    return job.algorithm.clusters({name: torch.stack([one[name] for one in every]) for name in every[0]})


def _evaluate(job: Job, pool: Pool, folder: RunFolder, server: Server, round: int, last: bool) -> Evaluated:
    """Scores clients before `round`; the frozen base only once per client, as it never changes."""
    started, x = perf_counter(), job.experiment.evaluation
    clients = _examined(job, round, last)
    known = folder.scored("base")
    scores: Scores = {}
    for views, chosen in ((VIEWS, [c for c in clients if c not in known]), (VIEWS[1:], [c for c in clients if c in known])):
        scores |= examine(pool, _exam(job, server, round, chosen, views)) if chosen else {}
    seconds = perf_counter() - started
    folder.save_inside(round, {job.clients[c].name: found.sight for c, found in sorted(scores.items()) if found.sight})
    folder.save_marks({c: found.marks for c, found in scores.items()}, [c.name for c in job.clients], last)
    means = folder.save_scores(_rows(job, round, scores), round, seconds, {"split": x.split, "when": x.when})
    return Evaluated(round, len(clients), means, seconds, x.split, numbers_of(job, means["personal"]))


def _exam(job: Job, server: Server, round: int, clients: Sequence[int], views: tuple[str, ...]) -> Exam:
    parted = [schedule.groups(own, job.layout.seats) for own in server.parted(clients)]
    clusters = tuple(i for i, groups in enumerate(parted) for _ in groups)
    sent = tuple(job.down.pack_one(state.sent) for state in server.states)
    return Exam(round, tuple(group for groups in parted for group in groups), clusters, sent, views)


def _examined(job: Job, round: int, last: bool) -> list[int]:
    x, everybody = job.experiment, list(range(len(job.clients)))
    if last or x.evaluation.clients == "all":
        return everybody
    if x.evaluation.clients == "cohort":
        return list(schedule.cohort(x.seed, round, len(job.clients), x.cohort))
    rng = np.random.default_rng(np.random.SeedSequence([x.seed, round, 0xE7A1]))
    return sorted(rng.permutation(len(everybody))[: x.evaluation.clients].tolist())


def _rows(job: Job, round: int, scores: Scores) -> Table:
    """One row per client, view and number."""
    split, names = job.experiment.evaluation.split, [c.name for c in job.clients]
    return [
        {"round": round, "client": client, "name": names[client], "view": view, "metric": name, "value": value, "split": split}
        for client, found in sorted(scores.items())
        for view, sums in ((view, marks.sums()) for view, marks in found.marks.items())
        for metric in job.metrics
        for name, value in metric.value(sums).items()
    ]


def _progress(round: int, job: Job, report: Any) -> Progress:
    of = len(job.taking_part(round))
    clients = report.clients
    loss = sum(c.loss for c in clients) / len(clients)
    return Progress(round, len(clients), of, loss, sum(c.tokens for c in clients))
