"""One round as a fold over what a pool returns, and the pool that needs no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from flexray.sim import schedule
from flexray.sim.fold import Fold, Gathering
from flexray.sim.host import ClientHost
from flexray.sim.job import Job
from flexray.sim.reports import ClientReport, Gathered, Scores, SliceReport
from flexray.sim.schedule import Group
from flexray.state import ServerState, State


@dataclass(frozen=True)
class Server:
    """The server: one state for each cluster of clients, and every client's cluster (empty: all in the first)."""

    states: tuple[ServerState, ...]
    clusters: tuple[int, ...] = ()

    def cluster(self, client: int) -> int:
        return self.clusters[client] if client < len(self.clusters) else 0

    def numbered(self) -> Iterator[tuple[int, ServerState]]:
        """Each cluster's number and state."""
        yield from enumerate(self.states)

    def parted(self, clients: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Clients by their cluster, in their order; a cluster of which nobody is there is empty."""
        return tuple(tuple(c for c in clients if self.cluster(c) == i) for i in range(len(self.states)))


@dataclass(frozen=True)
class Slice:
    """Groups of clients, all of one cluster, that one actor trains one after another."""

    cluster: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Task:
    """A round's training: its slices in their order; per cluster what the server sent, and the cohort's training rows."""

    round: int
    slices: tuple[Slice, ...]
    sent: tuple[np.ndarray, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Exam:
    """An evaluation: groups of clients, each of one cluster, as they are before `round`, in some views."""

    round: int
    groups: tuple[Group, ...]
    clusters: tuple[int, ...]
    sent: tuple[np.ndarray, ...]
    views: tuple[str, ...]


class Pool(Protocol):
    """Processes that hold clients. Results come as they finish, in any order."""

    actors: int

    def open(self) -> np.ndarray:
        """What travels first."""
        ...

    def survey(self, groups: Sequence[Group]) -> Iterator[dict[int, State]]:
        """What the clients of each group tell once."""
        ...

    def train(self, task: Task) -> Iterator[tuple[int, Gathered, SliceReport]]:
        """The number, the weighted sum (or each update) and the report of each slice."""
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

    def open(self) -> np.ndarray:
        return self.host.open()

    def survey(self, groups: Sequence[Group]) -> Iterator[dict[int, State]]:
        yield from map(self.host.survey, groups)

    def train(self, task: Task) -> Iterator[tuple[int, Gathered, SliceReport]]:
        for i, s in enumerate(task.slices):
            yield i, *self.host.train(task.round, s.groups, task.sent[s.cluster], task.rows[s.cluster])

    def evaluate(self, exam: Exam) -> Iterator[Scores]:
        for group, cluster in zip(exam.groups, exam.clusters, strict=True):
            yield self.host.evaluate(exam.round, group, exam.sent[cluster], exam.views)

    def close(self) -> None:
        if self.host.seats is not None:
            self.host.seats.detach()


@dataclass(frozen=True)
class RoundReport:
    """A finished round. Seconds: the whole, the mean an actor trained, the driver's handling of updates, and
    idle time; trained: the parts that local steps changed."""

    round: int
    clients: tuple[ClientReport, ...]
    seconds: float
    seconds_training: float
    seconds_communication: float
    trained: frozenset[str] = frozenset()

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


def play(job: Job, pool: Pool, server: Server, round: int) -> Iterator[SliceReport | tuple[Server, RoundReport]]:
    """One round: yields each slice's report as it comes, and at last the server with the round's report."""
    started = perf_counter()
    parted = server.parted(job.taking_part(round))
    task, first = _task(job, server, parted, round)
    folds: list[Any] = [
        Gathering(b - a) if job.algorithm.each else Fold(job.up.numbers, b - a) for a, b in pairwise([*first, len(task.slices)])
    ]
    handling, reports = perf_counter() - started, []
    for number, gathered, report in pool.train(task):
        before, cluster = perf_counter(), task.slices[number].cluster
        folds[cluster].add(number - first[cluster], gathered)
        handling += perf_counter() - before
        reports.append(report)
        yield report
    before = perf_counter()
    states = [
        _served(job, state, fold.result, clients, server, i) if clients else state
        for i, (state, fold, clients) in enumerate(zip(server.states, folds, parted, strict=True))
    ]
    ended = perf_counter()
    clients = tuple(sorted((c for r in reports for c in r.clients), key=lambda c: c.client))
    busy = sum(r.seconds - r.seconds_private for r in reports) / pool.actors
    exchange = handling + ended - before + sum(r.seconds_private for r in reports) / pool.actors
    trained = frozenset(part for r in reports for part in r.trained)
    yield Server(tuple(states), server.clusters), RoundReport(round, clients, ended - started, busy, exchange, trained)


def _task(job: Job, server: Server, parted: Sequence[Sequence[int]], round: int) -> tuple[Task, list[int]]:
    """The round's task, and the number of each cluster's first slice."""
    slices, first = [], []
    for cluster, clients in enumerate(parted):
        first.append(len(slices))
        slices += [Slice(cluster, groups) for groups in schedule.slices(schedule.groups(clients, job.layout.seats)) if groups]
    sent = tuple(job.down.pack_one(state.sent) for state in server.states)
    rows = tuple(sum(len(job.trainees[c].train) for c in clients) for clients in parted)
    return Task(round, tuple(slices), sent, rows), first


def _served(job: Job, state: ServerState, gathered: Any, clients: Sequence[int], server: Server, cluster: int) -> ServerState:
    """What the server makes of a cluster's updates."""
    algorithm, wire = job.algorithm, job.up
    rows = [len(job.trainees[c].train) for c in clients]
    if algorithm.each:
        masks = [wire.crossing(algorithm.cut(wire.payload, c)) for c in clients]
        updates = [wire.unpack(_spread(v, mask)) for v, mask in zip(gathered, masks, strict=True)]
        mean = algorithm.combine(updates, [n / sum(rows) for n in rows])
    else:
        mean = wire.unpack(gathered)
    population = 1 if algorithm.pooled else len(server.parted(range(len(job.clients)))[cluster])
    return algorithm.server(state, mean, len(clients) / population)


def _spread(crossed: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A whole vector [P] from the numbers of it that crossed, zero elsewhere."""
    if mask is None:
        return crossed
    whole = np.zeros(len(mask), np.float32)
    whole[mask] = crossed
    return whole


def examine(pool: Pool, exam: Exam) -> Scores:
    """What all groups scored."""
    return {client: found for scores in pool.evaluate(exam) for client, found in scores.items()}
