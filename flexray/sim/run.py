"""A run from start to end: rounds, evaluation, checkpoints, the run folder. Knows pools, not Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from flexray.config import Experiment
from flexray.metric import Number
from flexray.sim import run_files, schedule, work
from flexray.sim.job import Job
from flexray.sim.private.store import PrivateStore
from flexray.sim.reports import Scores, SliceReport
from flexray.sim.round import Pool, RoundReport, Scored, Trained, play
from flexray.sim.run_folder import RunFolder, Table
from flexray.sim.summary import VIEWS, numbers_of, summarise
from flexray.sim.vectors import Vectors
from flexray.sim.work import Scoring, Server


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

    def plus(self, later: Progress) -> Progress:
        """Both in one."""
        clients = self.clients + later.clients
        loss = (self.clients * self.loss + later.clients * later.loss) / clients
        return Progress(self.round, clients, self.of, loss, self.tokens + later.tokens)


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
    """Plays the rounds that are left, and yields what happens. The folder `out` exists and holds the resolved config.

    Clients are scored as they are before a round while that round is played. A round is saved once all that its clients own is at
    rest, so that a run that stops anywhere goes on from the last one saved.
    """
    started = perf_counter()
    folder, experiment, vectors = RunFolder(out), job.experiment, Vectors()
    pool = make_pool(job)
    try:
        server, first, known = _begin(job, pool, folder, resume)
        yield Started(first, perf_counter() - started)
        for round in range(first, experiment.rounds):
            exam, rests = _exam(job, pool, folder, server, round) if _scores(experiment, round) else None, dict[int, int]()
            for what in play(job, pool, server, round, known, exam.tasks if exam else (), vectors=vectors):
                if isinstance(what, tuple):
                    server, report = what
                    folder.save_round(server, report, known | rests, job.identity)
                    yield RoundDone(report)
                else:
                    rests |= what.report.rests if isinstance(what, Trained) else {}
                    yield from _heard(job, round, what, exam)
            known |= rests
        yield from _last(job, pool, folder, server, known)
        summary = summarise(job, folder, pool.actors)
        folder.finish(summary)
        yield Finished(summary)
    finally:
        pool.close()


def _begin(job: Job, pool: Pool, folder: RunFolder, resume: bool) -> tuple[Server, int, dict[int, int]]:
    """The server, the first round to play, and after which round the private state of clients was last written."""
    saved = folder.load_server(job.identity) if resume else None
    files = PrivateStore(job.private, [c.name for c in job.trainees], job.identity)
    known = files.forget_after(saved.round if saved else -1)
    if saved:
        files.check(known, saved.rests)
        run_files.check_rounds(folder.path, saved.round)
        folder.forget_after(saved.round)
        return saved.server, saved.round + 1, known
    clusters = _clusters(job, pool, folder)
    state = job.algorithm.open(job.down.unpack(pool.open()))
    return Server((state,) * (max(clusters, default=0) + 1), clusters), 0, known


def _clusters(job: Job, pool: Pool, folder: RunFolder) -> tuple[int, ...]:
    """Every client's cluster, by what the clients tell once; empty where the method asks nothing."""
    if not job.algorithm.surveys:
        return ()
    groups = schedule.groups(range(len(job.clients)), job.layout.seats)
    told = {client: state for answers in pool.survey(groups) for client, state in answers.items()}
    folder.save_survey(told)
    every = [told[client] for client in range(len(job.clients))]
    return job.algorithm.clusters({name: torch.stack([one[name] for one in every]) for name in every[0]})


def _scores(x: Experiment, round: int) -> bool:
    return bool(x.evaluation.every) and round % x.evaluation.every == 0


@dataclass
class _Exam:
    """An evaluation under way: of the state before `round`, of so many clients, in these tasks; what came so far."""

    folder: RunFolder
    round: int
    clients: int
    tasks: list[Scoring]
    actors: int
    last: bool
    scores: Scores = field(default_factory=dict)
    done: int = 0
    busy: float = 0.0
    started: float = field(default_factory=perf_counter)

    def add(self, job: Job, scored: Scored) -> Iterator[Evaluated]:
        """Saved as soon as it is whole."""
        self.scores |= scored.report.scores
        self.done, self.busy = self.done + 1, self.busy + scored.report.seconds
        if self.done == len(self.tasks):
            # What the mean actor spent on it; at the end, when nothing else goes on, all the time that passed.
            yield self._save(job, perf_counter() - self.started if self.last else self.busy / self.actors)

    def _save(self, job: Job, seconds: float) -> Evaluated:
        x, scores, folder, round = job.experiment.evaluation, self.scores, self.folder, self.round
        folder.save_inside(round, {job.clients[c].name: found.sight for c, found in sorted(scores.items()) if found.sight})
        folder.save_marks({c: found.marks for c, found in scores.items()}, job.clients, round, self.last)
        means = folder.save_scores(_rows(job, round, scores), round, seconds, {"split": x.split, "when": x.when})
        return Evaluated(round, self.clients, means, seconds, x.split, numbers_of(job, means["personal"]))


def _exam(job: Job, pool: Pool, folder: RunFolder, server: Server, round: int, last: bool = False) -> _Exam:
    """Scores clients before `round`; the frozen base only once per client, as it never changes."""
    clients, known = _examined(job, round, last), folder.scored("base")
    tasks = []
    for views, chosen in ((VIEWS, [c for c in clients if c not in known]), (VIEWS[1:], [c for c in clients if c in known])):
        tasks += work.scoring(job, server, chosen, views, pool.actors)
    return _Exam(folder, round, len(clients), tasks, pool.actors, last)


def _heard(job: Job, round: int, what: Trained | Scored, exam: _Exam | None) -> Iterator[Event]:
    """What a task that is done has to tell."""
    if isinstance(what, Trained):
        yield _progress(round, job, what.report)
    else:
        assert exam is not None
        yield from exam.add(job, what)


def _last(job: Job, pool: Pool, folder: RunFolder, server: Server, known: dict[int, int]) -> Iterator[Event]:
    """The evaluation at the end."""
    rounds = job.experiment.rounds
    exam = _exam(job, pool, folder, server, rounds, last=True)
    for scored in pool.play(work.of_exam(job, server, rounds, exam.tasks, known)):
        assert isinstance(scored, Scored)
        yield from _heard(job, rounds, scored, exam)
    pool.settle()


def _examined(job: Job, round: int, last: bool) -> list[int]:
    x, everybody = job.experiment, list(range(len(job.clients)))
    chosen = x.evaluation.last if last else x.evaluation.clients
    if chosen == "all":
        return everybody
    if chosen == "cohort":
        return list(schedule.cohort(x.seed, round, len(job.clients), x.cohort))
    rng = np.random.default_rng(np.random.SeedSequence([x.seed, round, 0xE7A1]))
    return sorted(rng.permutation(len(everybody))[:chosen].tolist())


def _rows(job: Job, round: int, scores: Scores) -> Table:
    """One row per client, view and number."""
    split = job.experiment.evaluation.split
    return [
        {"round": round, "client": client, "name": job.clients[client].name, "view": view, "metric": name, "value": value, "split": split}
        for client, found in sorted(scores.items())
        for view, sums in ((view, marks.sums()) for view, marks in found.marks.items())
        for metric in job.metrics
        for name, value in metric.value(sums).items()
    ]  # fmt: skip


def _progress(round: int, job: Job, report: SliceReport) -> Progress:
    clients, of = report.clients, 1 if job.algorithm.pooled else job.cohort
    return Progress(round, len(clients), of, float(clients.loss.mean()), int(clients.tokens.sum()))
