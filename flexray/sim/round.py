"""One round as a fold over what a pool returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from time import perf_counter
from typing import Any

import numpy as np
import torch

from flexray.errors import RunError
from flexray.sim import work
from flexray.sim.failure import Trouble
from flexray.sim.fold import Fold, Gathering
from flexray.sim.job import Job
from flexray.sim.pool import Pool, Scored, Trained
from flexray.sim.privacy import opening, rules
from flexray.sim.reports import Reports, ScoreReport, SliceReport, Sum
from flexray.sim.system import ledger, stale
from flexray.sim.system.turns import RoundCourse
from flexray.sim.vectors import Vectors
from flexray.sim.work import Scoring, Server
from flexray.state import ServerState

Who = Sequence[Sequence[int]]
"""Clients, by cluster."""


@dataclass(frozen=True)
class RoundReport:
    """A finished round. Seconds: the whole (without what actors spent on scoring meanwhile), the mean an actor trained, the driver's
    handling of updates and waiting for private state, and idle time; trained: the parts that local steps changed; left_out: who was
    to train and is not among the clients, as they failed; privacy: ε after it, if that is counted, and the clip in it; course: on the
    simulated clock, where there is one; unpaid: of its turns those that did not count, and what crossed in vain."""

    round: int
    clients: Reports
    seconds: float
    seconds_training: float
    seconds_communication: float
    trained: frozenset[str] = frozenset()
    left_out: tuple[Trouble, ...] = ()
    privacy: Mapping[str, float] = field(default_factory=dict)
    course: RoundCourse | None = None
    unpaid: Reports = field(default_factory=lambda: Reports.of([]))

    @property
    def seconds_waiting(self) -> float:
        """Wall time in which the mean actor neither trained nor exchanged anything."""
        return max(0.0, self.seconds - self.seconds_training - self.seconds_communication)

    @property
    def loss(self) -> float:
        """Training loss, weighted by the clients' rows; not a number if nobody took part."""
        return float((self.clients.loss * self.clients.rows).sum() / self.clients.rows.sum()) if len(self.clients) else nan

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
            **self.privacy,
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

    def report(
        self, round: int, clients: Reports, seconds: float, actors: int, trained: frozenset[str], out: Sequence[Trouble]
    ) -> RoundReport:
        exchange, seconds = self.handling + self.private / actors, max(seconds - self.scoring / actors, 0.0)
        return RoundReport(round, clients, seconds, self.training / actors, exchange, trained, tuple(out))


def play(
    job: Job,
    pool: Pool,
    server: Server,
    round: int,
    known: Mapping[int, int],
    exam: Sequence[Scoring] = (),
    *,
    vectors: Vectors,
) -> Iterator[Trained | Scored | Trouble | tuple[Server, RoundReport]]:
    """One round, and meanwhile the scoring of the state before it: yields each task's result as it comes, and at last, when all that
    clients own is at rest, the server with the round's report. known: see `Work`; vectors: of the rounds before. Who is left out
    counts for nothing."""
    started, clock = perf_counter(), _Clock()
    seen = server.before(job.buffered.versions(round)) if job.buffered else server
    leaves = work.slices(job, seen, round)
    who = [[c for leaf in own for group in leaf for c in group] for own in leaves]
    folds = [
        Gathering(clients) if job.algorithm.each else Fold(len(own), vectors) for clients, own in zip(who, leaves, strict=True)
    ]
    todo, reports, out = work.of_round(job, seen, round, leaves, exam, known, pool.actors, pool.pace), [], list[Trouble]()
    clock.handling += perf_counter() - started
    for done in pool.play(todo):
        before = perf_counter()
        _collect(folds, reports, out, done)
        clock.handling += perf_counter() - before
        if isinstance(done, (Trained, Scored)):
            clock.count(done.report)
        if not isinstance(done, Sum):
            yield done
        del done
    before = perf_counter()
    after = _after(job, server, folds, (who, _staying(who, out, round)), round, vectors)
    clock.handling += perf_counter() - before
    pool.settle()
    trained = frozenset(part for r in reports for part in r.trained)
    clients = Reports.joined([r.clients for r in reports]).without({c for trouble in out for c in trouble.clients})
    report = clock.report(round, clients, perf_counter() - started, pool.actors, trained, out)
    yield after, _on_clock(job, replace(report, privacy=opening.told(job, round, server.states[0])))


def _on_clock(job: Job, report: RoundReport) -> RoundReport:
    """With what the simulated clock tells of the round, if there is one."""
    if job.timeline is None:
        return report
    course = job.timeline.round(report.round)
    return replace(report, course=course, unpaid=ledger.unpaid(job, course))


def _after(
    job: Job, server: Server, folds: Sequence[Fold | Gathering], of: tuple[Who, Who], round: int, vectors: Vectors
) -> Server:
    """The server after a round; as it was where nobody took part. of: who was to train, and who did, by cluster or by when they began."""
    if job.buffered:
        sums = [
            vectors.own(fold.result) if isinstance(fold, Fold) and who else None for fold, who in zip(folds, of[0], strict=True)
        ]
        return stale.served(job, job.buffered, server, round, sums)
    return Server(_states(job, server, folds, of, round, vectors), server.clusters)


def _staying(who: Who, out: Sequence[Trouble], round: int) -> list[list[int]]:
    """Per cluster who is not left out. Raises RunError if nobody is."""
    gone = {c for trouble in out for c in trouble.clients}
    stay = [[c for c in clients if c not in gone] for clients in who]
    if any(who) and not any(stay):
        raise RunError(f"round {round}: nobody is left, every client failed, the last one: {out[-1].why}")
    return stay


def _collect(
    folds: Sequence[Fold | Gathering], reports: list[SliceReport], out: list[Trouble], done: Trained | Scored | Sum | Trouble
) -> None:
    """Adds what came to what its cluster has, and to the reports, or to who is left out."""
    if isinstance(done, Trained):
        reports.append(done.report)
    if isinstance(done, Trouble):
        out += [done] if done.left_out and done.doing == "training" else []
    elif isinstance(done, Sum):
        fold = folds[done.cluster]
        assert isinstance(fold, Fold)
        fold.add(done.vector, done.first, done.end)
    elif isinstance(done, Trained) and isinstance(fold := folds[done.task.cluster], Gathering):
        fold.add(done.vectors, [c for group in done.task.groups for c in group])


def _states(
    job: Job, server: Server, folds: Sequence[Fold | Gathering], of: tuple[Who, Who], round: int, vectors: Vectors
) -> tuple[ServerState, ...]:
    """What the server makes of all updates, cluster by cluster. of: who was to train, and who did."""
    who, stay = of
    if rules.closes(job.experiment):
        return (opening.served(job, server.states[0], folds[0].result if stay[0] else None, stay[0], round),)  # pyright: ignore[reportArgumentType]
    return tuple(_updated(job, server, i, folds[i], vectors, who[i], stay[i]) for i, _ in server.numbered())


def _updated(
    job: Job, server: Server, cluster: int, fold: Fold | Gathering, vectors: Vectors, who: Sequence[int], stay: Sequence[int]
) -> ServerState:
    """A cluster's state after a round; the one before where nobody trained. who: was to train; stay: did."""
    state = server.states[cluster]
    if not stay:
        return state
    if isinstance(fold, Gathering):
        return _served(job, state, fold.of(stay), stay, server, cluster)
    gathered = vectors.own(fold.result)
    if len(stay) < len(who):  # each came with its share of all rows
        rows = [sum(len(job.trainees[c].train) for c in clients) for clients in (who, stay)]
        gathered *= np.float32(rows[0] / rows[1])
    return _served(job, state, gathered, stay, server, cluster)


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


def _spread(crossed: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A whole vector [P] from the numbers of it that crossed, zero elsewhere."""
    if mask is None:
        return crossed
    whole = np.zeros(len(mask), np.float32)
    whole[mask] = crossed
    return whole
