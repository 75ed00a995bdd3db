"""One round as a fold over what a pool returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from time import perf_counter
from typing import Any

import numpy as np
import torch

from flexray.sim import work
from flexray.sim.fold import Fold, Gathering
from flexray.sim.job import Job
from flexray.sim.pool import Pool, Scored, Trained
from flexray.sim.reports import Reports, ScoreReport, SliceReport, Sum
from flexray.sim.system import ledger, stale
from flexray.sim.system.turns import RoundCourse
from flexray.sim.vectors import Vectors
from flexray.sim.work import Scoring, Server
from flexray.state import ServerState


@dataclass(frozen=True)
class RoundReport:
    """A finished round. Seconds: the whole (without what actors spent on scoring meanwhile), the mean an actor trained, the driver's
    handling of updates and waiting for private state, and idle time; trained: the parts that local steps changed. course: on the simulated
    clock, where there is one; unpaid: of its turns those that did not count, and what crossed in vain."""

    round: int
    clients: Reports
    seconds: float
    seconds_training: float
    seconds_communication: float
    trained: frozenset[str] = frozenset()
    course: RoundCourse | None = None
    unpaid: Reports = field(default_factory=lambda: Reports.of([]))

    @property
    def seconds_waiting(self) -> float:
        """Wall time in which the mean actor neither trained nor exchanged anything."""
        return max(0.0, self.seconds - self.seconds_training - self.seconds_communication)

    @property
    def loss(self) -> float:
        """Training loss, weighted by the clients' rows; no number where the round was void."""
        if not len(self.clients):
            return nan
        return float((self.clients.loss * self.clients.rows).sum() / self.clients.rows.sum())

    @property
    def tokens(self) -> int:
        return int(self.clients.tokens.sum())

    @property
    def crossed(self) -> Reports:
        """All whose bytes crossed."""
        return Reports.joined([self.clients, self.unpaid]) if len(self.unpaid) else self.clients

    @property
    def row(self) -> dict[str, Any]:
        """As in the table of rounds."""
        crossed, seconds = self.crossed, ("seconds", "seconds_training", "seconds_communication", "seconds_waiting")
        return {
            "round": self.round,
            "loss": self.loss,
            "clients": len(self.clients),
            "tokens": self.tokens,
            "bytes_up": crossed.bytes_up,
            "bytes_down": crossed.bytes_down,
            **{name: getattr(self, name) for name in seconds},
            **(ledger.row(self.course, self.unpaid) if self.course else {}),
        }


@dataclass
class _Clock:
    """Seconds of a round: the driver's own, and those of all actors together."""

    handling: float = 0.0
    training: float = 0.0
    private: float = 0.0
    scoring: float = 0.0

    def count(self, report: SliceReport | ScoreReport) -> None:
        if isinstance(report, ScoreReport):
            self.scoring += report.seconds
        else:
            self.training += report.seconds - report.seconds_private
            self.private += report.seconds_private

    def report(self, round: int, clients: Reports, seconds: float, actors: int, trained: frozenset[str]) -> RoundReport:
        exchange = self.handling + self.private / actors
        return RoundReport(round, clients, max(seconds - self.scoring / actors, 0.0), self.training / actors, exchange, trained)


def play(
    job: Job,
    pool: Pool,
    server: Server,
    round: int,
    known: Mapping[int, int],
    exam: Sequence[Scoring] = (),
    *,
    vectors: Vectors,
) -> Iterator[Trained | Scored | tuple[Server, RoundReport]]:
    """One round, and meanwhile the scoring of the state before it: yields each task's result as it comes, and at last, when all that
    clients own is at rest, the server with the round's report. known: see `Work`; vectors: of the rounds before."""
    started, clock = perf_counter(), _Clock()
    seen = server.before(job.buffered.versions(round)) if job.buffered else server
    leaves = work.slices(job, seen, round)
    who = [[c for leaf in own for group in leaf for c in group] for own in leaves]
    folds = [
        Gathering(clients) if job.algorithm.each else Fold(len(own), vectors) for clients, own in zip(who, leaves, strict=True)
    ]
    todo, reports = work.of_round(job, seen, round, leaves, exam, known, pool.actors, pool.pace), []
    clock.handling += perf_counter() - started
    for done in pool.play(todo):
        before = perf_counter()
        if isinstance(done, Trained):
            reports.append(done.report)
        _collect(folds, done)
        clock.handling += perf_counter() - before
        if not isinstance(done, Sum):
            clock.count(done.report)
            yield done
        del done
    before = perf_counter()
    sums = [_mine(fold.result, vectors) if own else None for fold, own in zip(folds, who, strict=True)]
    server = _after(job, server, round, sums, who)
    clock.handling += perf_counter() - before
    pool.settle()
    trained = frozenset(part for r in reports for part in r.trained)
    report = clock.report(round, Reports.joined([r.clients for r in reports]), perf_counter() - started, pool.actors, trained)
    yield server, _on_clock(job, report)


def _on_clock(job: Job, report: RoundReport) -> RoundReport:
    """With what the simulated clock tells of the round, if there is one."""
    if job.timeline is None:
        return report
    course = job.timeline.round(report.round)
    return replace(report, course=course, unpaid=ledger.unpaid(job, course))


def _after(job: Job, server: Server, round: int, sums: Sequence[Any], who: Sequence[Sequence[int]]) -> Server:
    """The server after a round; as it was where nobody took part. sums: by cluster, or by when updates began."""
    if job.buffered:
        return stale.served(job, job.buffered, server, round, sums)
    states = [_served(job, s, sums[i], who[i], server, i) if who[i] else s for i, s in server.numbered()]
    return Server(tuple(states), server.clusters)


def _collect(folds: Sequence[Fold | Gathering], done: Trained | Scored | Sum) -> None:
    """Adds what came to what its cluster has."""
    if isinstance(done, Sum):
        fold = folds[done.cluster]
        assert isinstance(fold, Fold)
        fold.add(done.vector, done.first, done.end)
    elif isinstance(done, Trained) and isinstance(fold := folds[done.task.cluster], Gathering):
        fold.add(done.vectors, [c for group in done.task.groups for c in group])


def _served(job: Job, state: ServerState, gathered: Any, clients: Sequence[int], server: Server, cluster: int) -> ServerState:
    """What the server makes of a cluster's updates."""
    algorithm, wire = job.algorithm, job.up
    if algorithm.each:
        clients = sorted(clients)
        rows = [len(job.trainees[c].train) for c in clients]
        masks = [wire.crossing(algorithm.cut(wire.payload, c)) for c in clients]
        updates = [wire.unpack(_spread(v, mask)) for v, mask in zip(gathered, masks, strict=True)]
        mean = algorithm.combine(updates, [n / sum(rows) for n in rows])
    else:
        mean = wire.views(torch.from_numpy(gathered))
    population = 1 if algorithm.pooled else server.members(cluster, len(job.clients))
    return algorithm.server(state, mean, len(clients) / population)


def _mine(gathered: Any, vectors: Vectors) -> Any:
    """A sum in memory of the driver's own: what comes from the object store is everybody's."""
    if isinstance(gathered, list) or gathered.flags.writeable:
        return gathered
    own = vectors.take(len(gathered))
    np.copyto(own, gathered)
    return own


def _spread(crossed: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A whole vector [P] from the numbers of it that crossed, zero elsewhere."""
    if mask is None:
        return crossed
    whole = np.zeros(len(mask), np.float32)
    whole[mask] = crossed
    return whole
