"""A run from start to end: rounds, evaluation, checkpoints, the run folder. Knows pools, not Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import torch

from flexray.config import Experiment
from flexray.sim import left_out, run_files, schedule, work
from flexray.sim.checkpoint import Checkpoints, place_of
from flexray.sim.events import Event, Finished, Progress, RoundDone, Started, Stumbled
from flexray.sim.exam import Exam, examination
from flexray.sim.failure import Trouble
from flexray.sim.holding import leading
from flexray.sim.job import Job
from flexray.sim.pool import Pool, Scored, Trained
from flexray.sim.private.store import PrivateStore
from flexray.sim.reports import SliceReport
from flexray.sim.round import RoundReport, play
from flexray.sim.run_folder import RunFolder
from flexray.sim.summary import summarise
from flexray.sim.system import ledger
from flexray.sim.vectors import Vectors
from flexray.sim.work import Server


def run(job: Job, make_pool: Callable[[Job], Pool], out: Path, resume: bool = False) -> Iterator[Event]:
    """Plays the rounds that are left, and yields what happens. The folder `out` exists and holds the resolved config.

    Clients are scored as they are before a round while that round is played. A round is saved once all that its clients own is at
    rest, so that a run that stops anywhere goes on from the last one saved. Whoever still leads the run is waited for.
    """
    with leading(out):
        yield from _run(job, make_pool, out, resume)


def _run(job: Job, make_pool: Callable[[Job], Pool], out: Path, resume: bool) -> Iterator[Event]:
    started = perf_counter()
    folder, experiment, vectors = RunFolder(out, job.experiment.storage.durable), job.experiment, Vectors()
    copies, pool = _checkpoints(job, out), make_pool(job)
    try:
        server, first, known = _begin(job, pool, folder, resume)
        if copies:
            copies.begin(first - 1)
        ledger.settle(job, folder, first)
        yield Started(first, perf_counter() - started, pool.replaced)
        for round in range(first, experiment.rounds):
            exam = examination(job, pool, folder, server, round) if _scores(experiment, round) else None
            rests: dict[int, int] = {}
            for what in play(job, pool, server, round, known, exam.tasks if exam else (), vectors=vectors):
                if isinstance(what, tuple):
                    server, report = what
                    _left_out(job, folder, report, rests)
                    folder.save_round(server, report, known | rests, job.identity)
                    yield RoundDone(report)
                else:
                    rests |= what.report.rests if isinstance(what, Trained) else {}
                    yield from _heard(job, round, what, exam)
            known |= rests
            yield from copies.after(round, known) if copies else ()
        yield from _last(job, pool, folder, server, known)
        summary = summarise(job, folder, pool.actors)
        folder.finish(summary)
        yield from copies.end(experiment.rounds - 1, known) if copies else ()
        yield Finished(summary)
    finally:
        pool.close()
        if copies:
            copies.close()


def _checkpoints(job: Job, out: Path) -> Checkpoints | None:
    storage = job.experiment.storage
    if storage.checkpoint is None:
        return None
    private = PrivateStore.of(job)
    return Checkpoints(out, private, place_of(storage.checkpoint, out), storage.checkpoint_every)


def _begin(job: Job, pool: Pool, folder: RunFolder, resume: bool) -> tuple[Server, int, dict[int, int]]:
    """The server, the first round to play, and after which round the private state of clients was last written."""
    saved = folder.load_server(job.identity) if resume else None
    files = PrivateStore.of(job)
    known = files.forget_after(saved.round if saved else -1)
    if saved:
        files.check(known, saved.rests)
        run_files.check_rounds(folder.path, saved.round)
        folder.forget_after(saved.round)
        left_out.forget_after(folder, saved.round)
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
    told = {client: told[client] for client in range(len(job.clients))}  # whoever was first
    folder.save_survey(told)
    every = [*told.values()]
    return job.algorithm.clusters({name: torch.stack([one[name] for one in every]) for name in every[0]})


def _scores(x: Experiment, round: int) -> bool:
    return bool(x.evaluation.every) and round % x.evaluation.every == 0


def _left_out(job: Job, folder: RunFolder, report: RoundReport, rests: dict[int, int]) -> None:
    """Who is left out of a round owns what it did before, whatever a lost attempt has written."""
    if not report.left_out:
        return
    store = PrivateStore.of(job)
    for client in {c for trouble in report.left_out for c in trouble.clients}:
        store.drop(client, report.round)
        rests.pop(client, None)
    left_out.save(folder, job, report.round, "training", report.left_out)


def _heard(job: Job, round: int, what: Trained | Scored | Trouble, exam: Exam | None) -> Iterator[Event]:
    """What a task that is done has to tell, or one that is not."""
    if isinstance(what, Trouble):
        names = tuple(job.trainees[c].name for c in what.clients)
        yield Stumbled(round, names, what.doing, what.why, what.attempts, what.left_out)
    if isinstance(what, Trained):
        yield _progress(round, job, what.report)
    elif isinstance(what, Scored) or what.doing == "scoring":
        assert exam is not None
        yield from exam.add(job, what)


def _last(job: Job, pool: Pool, folder: RunFolder, server: Server, known: dict[int, int]) -> Iterator[Event]:
    """The evaluation at the end."""
    rounds = job.experiment.rounds
    exam = examination(job, pool, folder, server, rounds, last=True)
    for scored in pool.play(work.of_exam(job, server, rounds, exam.tasks, known)):
        assert isinstance(scored, (Scored, Trouble))
        yield from _heard(job, rounds, scored, exam)
    pool.settle()


def _progress(round: int, job: Job, report: SliceReport) -> Progress:
    clients, of = report.clients, len(job.taking_part(round))
    return Progress(round, len(clients), of, float(clients.loss.mean()), int(clients.tokens.sum()))
