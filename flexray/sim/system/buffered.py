"""Buffered asynchronous rounds (FedBuff, Nguyen et al. 2022, arXiv 2106.06639) on the simulated clock, worked out ahead.

So many clients are always at work. Each begins with what the server then has; as soon as its update is there another one begins. Every
`buffer` updates make a round. A client is never at work twice at once, and not asked again while its update waits in the buffer. All that
happens at one instant happens in the order of clients' numbers, and before anybody begins anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import NamedTuple

import numpy as np

from flexray.errors import ConfigError
from flexray.sections_system import System
from flexray.sim.schedule import drawn_from
from flexray.sim.system.availability import Availability
from flexray.sim.system.turns import COUNTED, DROPPED, LATE, LEFT, STALE, Pace, RoundCourse, Turns

NOBODY = -1
"""Stands in the place of a client where one only looks whether somebody came."""
PATIENCE = 1000
"""Turns for each update of a buffer, after which it is clear that it will never be full."""


class Ending(NamedTuple):
    """A turn's end on the clock; of equals the client with the lower number comes first. status COUNTED: an update comes."""

    at: float
    client: int
    status: int
    version: int
    started: float
    seconds: float


@dataclass
class Buffered:
    """The rounds, as many as one asks for. concurrency: how many clients are at work at once, as far as there are clients."""

    system: System
    pace: Pace
    buffer: int
    concurrency: int

    def round(self, number: int) -> RoundCourse:
        """One of them."""
        while len(self._played) <= number:
            self._played.append(next(self._course))
        return self._played[number][0]

    def versions(self, number: int) -> tuple[int, ...]:
        """With what the round's clients began: the server as it was before these rounds, that one first, then older ones."""
        return (number, *sorted({number - tau for tau in self.round(number).staleness.values()} - {number}, reverse=True))

    def parted(self, number: int) -> tuple[tuple[int, ...], ...]:
        """The round's clients by version; there may be none of the first."""
        course = self.round(number)
        return tuple(tuple(c for c in course.counted if number - course.staleness[c] == v) for v in self.versions(number))

    def needed(self, after: int) -> tuple[int, ...]:
        """With which versions of up to this round's start clients are still at work after it, in order."""
        self.round(after)
        return self._played[after][1]

    @cached_property
    def _course(self) -> Iterator[tuple[RoundCourse, tuple[int, ...]]]:
        return _Play(self).courses()

    @cached_property
    def _played(self) -> list[tuple[RoundCourse, tuple[int, ...]]]:
        return []


class _Play:
    """The course of events."""

    def __init__(self, of: Buffered):
        self.of, self.there, n = of, of.pace.fleet.there, len(of.pace.work)
        self.now, self.version, self.drawings, self.turns, self.working = 0.0, 0, 0, 0, 0
        self.heap: list[Ending] = []
        self.waiting: list[Ending] = []
        self.over: list[Ending] = []
        self.busy = np.zeros(n, bool)
        self.here, self.back, self.changes = np.ones(n, bool), np.zeros(n), inf if self.there is None else -inf

    def courses(self) -> Iterator[tuple[RoundCourse, tuple[int, ...]]]:
        """Each round, and the versions with which clients are at work at its end."""
        began = 0.0
        self._begin()
        while True:
            if not self.heap:
                raise self._nobody()
            self.now = self.heap[0].at
            while self.heap and self.heap[0].at == self.now:
                self._end(heapq.heappop(self.heap))
                if len(self.waiting) == self.of.buffer:
                    yield self._flushed(began), self._at_work()
                    began = self.now
            self._begin()

    def _end(self, e: Ending) -> None:
        """A turn is over; an update stays in the buffer, and so does its client."""
        if e.client == NOBODY:
            return
        self.working -= 1
        if e.status == COUNTED and not self._too_late(e):
            self.waiting.append(e)
        else:
            self.busy[e.client] = False
            self.over.append(e._replace(status=STALE) if e.status == COUNTED else e)

    def _too_late(self, e: Ending) -> bool:
        most = self.of.system.max_staleness
        return most is not None and self.version - e.version > most

    def _flushed(self, began: float) -> RoundCourse:
        """The buffer is full."""
        every = sorted([*self.waiting, *self.over], key=lambda e: (e.client, e.at))
        columns = {"client": int, "status": int, "started": float, "seconds": float}
        made = {name: np.array([getattr(e, name) for e in every], kind) for name, kind in columns.items()}
        late = np.array([self.version - e.version for e in every], int)
        course = RoundCourse(self.version, began, self.now, self.now - began, Turns(**made, staleness=late))
        self.busy[[e.client for e in self.waiting]] = False
        self.waiting, self.over, self.turns = [], [], 0
        self.version, self.drawings = self.version + 1, 0
        return course

    def _at_work(self) -> tuple[int, ...]:
        return tuple(sorted({e.version for e in self.heap if e.status == COUNTED and not self._too_late(e)}))

    def _begin(self) -> None:
        """Free places are taken by clients who are there and do nothing else."""
        if not (free := self.of.concurrency - self.working):
            return
        if self.there is not None and self.now >= self.changes:
            self._look(self.there)
        here = np.flatnonzero(self.here & ~self.busy)
        if n := min(free, len(here)):
            self._start(here[drawn_from(self.of.pace.seed, self.version, len(here), n, self.drawings)])
        if self.turns > PATIENCE * self.of.buffer:
            raise self._nobody()
        if free > n:
            self._wake()

    def _start(self, chosen: np.ndarray) -> None:
        seconds, silent = self.of.pace.drawn(chosen, self.version, self.drawings)
        stays = self.of.pace.until(self.now, chosen) - self.now
        for turn in zip(chosen.tolist(), seconds.tolist(), silent.tolist(), stays.tolist(), strict=True):
            heapq.heappush(self.heap, self._turn(*turn))
        self.busy[chosen] = True
        self.drawings, self.turns, self.working = self.drawings + 1, self.turns + len(chosen), self.working + len(chosen)

    def _turn(self, client: int, seconds: float, silent: bool, stays: float) -> Ending:
        """What will become of it. Who falls silent is waited for as long as its answer would have taken, or until the deadline."""
        deadline = self.of.system.deadline or inf
        late = LEFT if stays < deadline else LATE
        status = DROPPED if silent else late if seconds > min(stays, deadline) else COUNTED
        lasts = min(seconds, deadline, stays if status == LEFT else inf)
        return Ending(self.now + lasts, client, status, self.version, self.now, seconds)

    def _look(self, there: Availability) -> None:
        """Who is there, which holds until somebody comes or goes."""
        self.here, self.back = there.on(self.now), there.back(self.now)
        self.changes = float(np.where(self.here, there.until(self.now), self.back).min())

    def _wake(self) -> None:
        """One looks again when the next client comes who does nothing."""
        when = float(self.back[~self.here & ~self.busy].min(initial=inf))
        if when < inf and not any(e.client == NOBODY and e.at == when for e in self.heap):
            heapq.heappush(self.heap, Ending(when, NOBODY, NOBODY, self.version, self.now, 0.0))

    def _nobody(self) -> ConfigError:
        return ConfigError(
            f"system: expected {self.of.buffer} updates (system.buffer) for round {self.version}, got too few for ever: after "
            f"{self.now:g} simulated seconds clients are not there, fall silent or are too slow; raise system.deadline or "
            "system.max_staleness, lower system.dropout, or let availability repeat"
        )


def weight(system: System, staleness: int) -> float:
    """Of an update that is so many rounds late: 1 or (1 + τ)^−a, which is 1 where it is not late."""
    return 1.0 if system.staleness == "constant" else (1.0 + staleness) ** -system.staleness_exponent
