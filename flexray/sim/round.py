"""One round as a fold over what a pool returns, and the pool that needs no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from flexray.algorithm import Algorithm
from flexray.sim import schedule
from flexray.sim.host import ClientHost, ClientReport, Scores, SliceReport
from flexray.sim.job import Job
from flexray.sim.schedule import Group
from flexray.state import ServerState

Slice = tuple[Group, ...]


@dataclass(frozen=True)
class Task:
    """A round's training: its slices in their order, what the server sent, and the cohort's training rows."""

    round: int
    slices: tuple[Slice, ...]
    sent: np.ndarray
    rows: int


@dataclass(frozen=True)
class Exam:
    """An evaluation: groups of clients as they are before `round`, in some views."""

    round: int
    groups: tuple[Group, ...]
    sent: np.ndarray
    views: tuple[str, ...]


class Pool(Protocol):
    """Processes that hold clients. Results come as they finish, in any order."""

    actors: int

    def train(self, task: Task) -> Iterator[tuple[int, np.ndarray, SliceReport]]:
        """The number, the weighted sum and the report of each slice."""
        ...

    def evaluate(self, exam: Exam) -> Iterator[Scores]:
        """The counts of each group."""
        ...

    def close(self) -> None: ...


class InlinePool:
    """One host in this very process: for debugging, and where there is no Ray."""

    actors = 1

    def __init__(self, job: Job):
        self.host = ClientHost(job)

    def train(self, task: Task) -> Iterator[tuple[int, np.ndarray, SliceReport]]:
        for i, groups in enumerate(task.slices):
            yield i, *self.host.train(task.round, groups, task.sent, task.rows)

    def evaluate(self, exam: Exam) -> Iterator[Scores]:
        for group in exam.groups:
            yield self.host.evaluate(exam.round, group, exam.sent, exam.views)

    def close(self) -> None:
        if self.host.seats is not None:
            self.host.seats.detach()


@dataclass(frozen=True)
class RoundReport:
    """A finished round. Seconds: the whole, the mean an actor trained, the driver's handling of updates, and idle time."""

    round: int
    clients: tuple[ClientReport, ...]
    seconds: float
    seconds_training: float
    seconds_communication: float

    @property
    def seconds_waiting(self) -> float:
        """Wall time in which the mean actor neither trained nor exchanged anything."""
        return max(0.0, self.seconds - self.seconds_training - self.seconds_communication)

    @property
    def loss(self) -> float:
        """Training loss, weighted by the clients' rows."""
        return sum(c.loss * c.rows for c in self.clients) / sum(c.rows for c in self.clients)

    @property
    def tokens(self) -> int:
        return sum(c.tokens for c in self.clients)


class Fold:
    """Adds `slices` vectors [P] up in their own order whatever the order they arrive in, holding only those that came too early."""

    def __init__(self, numbers: int, slices: int):
        self._total = np.zeros(numbers, np.float32)
        self._early: dict[int, np.ndarray] = {}
        self._next, self._slices = 0, slices

    def add(self, number: int, vector: np.ndarray) -> None:
        self._early[number] = vector
        while self._next in self._early:
            self._total += self._early.pop(self._next)
            self._next += 1

    @property
    def result(self) -> np.ndarray:
        """The sum of all."""
        assert self._next == self._slices, f"slice {self._next} of {self._slices} never came"
        return self._total


def play(
    job: Job, algorithm: Algorithm, pool: Pool, state: ServerState, round: int
) -> Iterator[SliceReport | tuple[ServerState, RoundReport]]:
    """One round: yields each slice's report as it comes, and at last the server's new state with the round's report."""
    started, x = perf_counter(), job.experiment
    cohort = schedule.cohort(x.seed, round, len(job.clients), x.cohort)
    slices = schedule.slices(schedule.groups(cohort, job.layout.seats))
    sent = job.wire.pack_one(state.sent)
    handling, fold, reports = perf_counter() - started, Fold(job.wire.numbers, len(slices)), []
    for number, vector, report in pool.train(Task(round, slices, sent, sum(len(job.clients[c].train) for c in cohort))):
        before = perf_counter()
        fold.add(number, vector)
        handling += perf_counter() - before
        reports.append(report)
        yield report
    before = perf_counter()
    state = algorithm.server(state, job.wire.unpack(fold.result), len(cohort) / len(job.clients))
    ended = perf_counter()
    clients = tuple(sorted((c for r in reports for c in r.clients), key=lambda c: c.client))
    busy = sum(r.seconds - r.seconds_private for r in reports) / pool.actors
    exchange = handling + ended - before + sum(r.seconds_private for r in reports) / pool.actors
    yield state, RoundReport(round, clients, ended - started, busy, exchange)


def examine(pool: Pool, exam: Exam) -> Scores:
    """The counts of all groups."""
    return {client: views for scores in pool.evaluate(exam) for client, views in scores.items()}
