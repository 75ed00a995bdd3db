"""What there is to do in a round, as tasks for whoever is free: pure functions of the job, the server and the round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from flexray.sim import schedule
from flexray.sim.job import Job
from flexray.sim.privacy import opening
from flexray.sim.schedule import Group
from flexray.sim.wire import Wire
from flexray.state import ServerState, Update

PIECES = 2
"""An actor gets so large a part of the leaves that are left to it at a time."""
FEW = 8
"""An actor that has no more leaves begins with the longest; with more of them it follows the tree, so that sums soon meet and it never
holds more than these."""
SHORT = 0.01
"""Seconds for which it is not worth while to ask an actor."""
MOST_SCORED = 16
"""Groups at the most that are scored in one task, so that one can see it go on."""


@dataclass(frozen=True)
class Server:
    """The server: one state for each cluster of clients, and every client's cluster (empty: all in the first).

    past: what was sent before rounds that are over, by their number, as far as somebody still trains on it.
    """

    states: tuple[ServerState, ...]
    clusters: tuple[int, ...] = ()
    past: Mapping[int, Update] = field(default_factory=dict)

    def cluster(self, client: int) -> int:
        return self.clusters[client] if client < len(self.clusters) else 0

    def numbered(self) -> Iterator[tuple[int, ServerState]]:
        """Each cluster's number and state."""
        yield from enumerate(self.states)

    def parted(self, clients: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Clients by their cluster, in their order; a cluster of which nobody is there is empty."""
        if len(self.states) == 1:
            return (tuple(clients),)
        return tuple(tuple(c for c in clients if self.cluster(c) == i) for i in range(len(self.states)))

    def members(self, cluster: int, population: int) -> int:
        """How many of the population are in a cluster."""
        return self._members[cluster] + (population - len(self.clusters)) * (cluster == 0)

    def before(self, rounds: Sequence[int]) -> Server:
        """As if what it sent before each of these rounds, of which the first is the next one, were sent to a cluster each."""
        return Server((*self.states, *(ServerState(self.past[r]) for r in rounds[1:])))

    @cached_property
    def _members(self) -> Counter[int]:
        return Counter(self.clusters)


Leaf = tuple[int, tuple[Group, ...]]
"""A leaf of a round's sum: its number, and its groups, which are summed in their order."""


@dataclass(frozen=True)
class Training:
    """Leaves, all of one cluster whose sum has `of` leaves, that one actor trains one after another and adds to what it has.

    lag: they began so many rounds ago.
    """

    cluster: int
    of: int
    leaves: tuple[Leaf, ...]
    lag: int = 0

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(group for _, own in self.leaves for group in own)


@dataclass(frozen=True)
class Scoring:
    """Groups of clients, all of one cluster, to be scored in some views."""

    cluster: int
    groups: tuple[Group, ...]
    views: tuple[str, ...]


Task = Training | Scoring


@dataclass(frozen=True)
class Work:
    """What there is to score, for whoever is free, and what to train, by actor, the most urgent first. What clients own is as it was
    before `round`.

    rows: per cluster the training rows by which updates are weighed. known: the rounds after which clients'
    private state was last written. soon: by actor, the group with which it is to begin the round after this one.
    """

    round: int
    scoring: tuple[Scoring, ...]
    training: tuple[tuple[Training, ...], ...]
    server: Server
    wire: Wire
    rows: tuple[int, ...]
    known: Mapping[int, int]
    soon: tuple[Group, ...] = ()

    @property
    def tasks(self) -> Iterator[Task]:
        yield from self.scoring
        for own in self.training:
            yield from own

    @property
    def clusters(self) -> int:
        return len(self.server.states)

    def sent(self, cluster: int) -> np.ndarray:
        """What goes to the clients of a cluster, [P], made anew; see `opening.sent`."""
        state = self.server.states[cluster]
        return opening.sent(self.wire.pack_one(state.sent), state)

    def owning(self, groups: Sequence[Group]) -> dict[int, int]:
        """Of `known` what concerns these clients."""
        return {c: self.known[c] for group in groups for c in group if c in self.known}

    def states(self, groups: Sequence[Group]) -> list[tuple[int, int]]:
        """The same in pairs."""
        return list(self.owning(groups).items())

    def ahead(self, actor: int) -> list[tuple[int, int]]:
        """With which states an actor is to begin the next round, if this one does not change them."""
        return [s for s in self.states(self.soon[actor : actor + 1]) if s[0] not in self.training_clients]

    @cached_property
    def training_clients(self) -> set[int]:
        """Who is to be trained."""
        return {c for own in self.training for task in own for group in task.groups for c in group}


def bound(job: Job) -> bool:
    """Whether clients have an actor each, or share one, at which they stay as far as leaves hold one client each: up to 128 in a round."""
    return job.layout.placement == "one_per_client"


def slices(job: Job, server: Server, round: int) -> list[list[tuple[Group, ...]]]:
    """By cluster the groups of a round's cohort, divided into the leaves of its sum. The longest clients come first, alike ones
    sit together, and leaves are dealt so that all parts of the sum have as much to do."""
    parted = job.buffered.parted(round) if job.buffered else server.parted(job.taking_part(round))
    seated = (schedule.groups(schedule.longest_first(clients, job.work), job.layout.seats) for clients in parted)
    return [schedule.dealt(schedule.slices(groups)) if groups else [] for groups in seated]


def training(
    job: Job, every: Sequence[Sequence[tuple[Group, ...]]], actors: int, pace: float, lags: Sequence[int] = ()
) -> tuple[tuple[Training, ...], ...]:
    """Each actor's share of a round: neighbouring leaves, of a few the longest first, several at a time as long as much is left, or they
    are done in no time. With one client per actor, the leaves whose clients are at home there. pace: seconds of a client; lags: by cluster,
    see Training."""
    found: list[list[Training]] = [[] for _ in range(actors)]
    for cluster, leaves in enumerate(every):
        least = (
            max(1, int(SHORT * len(leaves) / (pace * sum(len(group) for leaf in leaves for group in leaf)))) if leaves else 1
        )
        for a, own in enumerate(_shares(job, leaves, actors)):
            at = a if bound(job) else (a + cluster) % actors  # small clusters begin somewhere else each
            ordered = sorted(own, key=lambda leaf: -_load(job, leaf[1])) if len(own) <= FEW else own
            chunks = [ordered[i:j] for i, j in schedule.chunks(len(ordered), PIECES, least, len(ordered))]
            found[at] += [Training(cluster, len(leaves), tuple(chunk), lags[cluster] if lags else 0) for chunk in chunks]
    return tuple(tuple(own) for own in found)


def scoring(job: Job, server: Server, clients: Sequence[int], views: tuple[str, ...], actors: int) -> list[Scoring]:
    """The tasks of an evaluation."""
    found = []
    for cluster, own in enumerate(server.parted(clients)):
        groups = schedule.groups(schedule.longest_first(own, job.lengths[job.experiment.evaluation.split]), job.layout.seats)
        most = 1 if bound(job) else MOST_SCORED
        found += [Scoring(cluster, groups[a:b], views) for a, b in schedule.chunks(len(groups), 2 * actors, 1, most)]
    return found


def of_round(
    job: Job, server: Server, round: int, leaves: Sequence[Sequence[tuple[Group, ...]]], exam: Sequence[Scoring], known: Mapping[int, int],
    actors: int, pace: float,
) -> Work:  # fmt: skip
    """All of a round."""
    rows = tuple(sum(len(job.trainees[c].train) for leaf in own for group in leaf for c in group) for own in leaves)
    rows = (sum(rows),) * len(rows) if job.buffered else rows
    lags = [round - version for version in job.buffered.versions(round)] if job.buffered else ()
    later = training(job, slices(job, server, round + 1), actors, pace) if known and round + 1 < job.experiment.rounds else ()
    soon = tuple(own[0].groups[0] if own else () for own in later)
    return Work(round, tuple(exam), training(job, leaves, actors, pace, lags), server, job.down, rows, known, soon)


def of_exam(job: Job, server: Server, round: int, exam: Sequence[Scoring], known: Mapping[int, int]) -> Work:
    """Scoring alone."""
    return Work(round, tuple(exam), (), server, job.down, (), known)


def _shares(job: Job, leaves: Sequence[tuple[Group, ...]], actors: int) -> list[list[Leaf]]:
    numbered = list(enumerate(leaves))
    if bound(job):
        return [[leaf for leaf in numbered if leaf[1][0][0] % actors == a] for a in range(actors)]
    return [numbered[part.start : part.stop] for part in schedule.regions(len(leaves), actors)]


def _load(job: Job, groups: Sequence[Group]) -> float:
    """A group lasts as long as its longest client."""
    return float(sum(len(group) * job.work[list(group)].max() for group in groups))
