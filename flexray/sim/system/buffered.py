"""Buffered asynchronous rounds (FedBuff, Nguyen et al. 2022, arXiv 2106.06639) on the simulated clock, worked out ahead.

So many clients are always at work. Each begins with what the server then has; as soon as its update is there another one begins. Every
`buffer` updates make a round. A client is never at work twice at once, and not asked again while its update waits in the buffer. All that
happens at one instant happens in the order of clients' numbers, and before anybody begins anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import NamedTuple

import numpy as np

from flexray.errors import ConfigError
from flexray.sections_system import System
from flexray.sim.schedule import drawn_from
from flexray.sim.system.turns import COUNTED, DROPPED, LATE, LEFT, STALE, Pace, RoundCourse, Turns

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
    """All rounds of a run. concurrency: how many are at work at once, as far as there are clients."""

    system: System
    pace: Pace
    buffer: int
    concurrency: int
    rounds: int

    def round(self, number: int) -> RoundCourse:
        """One of them."""
        return self._courses[number]

    def versions(self, number: int) -> tuple[int, ...]:
        """With what the round's clients began: the server as it was before these rounds, that one first, then older ones."""
        return (number, *sorted({number - tau for tau in self.round(number).staleness.values()} - {number}, reverse=True))

    def parted(self, number: int) -> tuple[tuple[int, ...], ...]:
        """The round's clients by version; there may be none of the first."""
        course = self.round(number)
        return tuple(tuple(c for c in course.counted if number - course.staleness[c] == v) for v in self.versions(number))

    def needed(self, after: int) -> tuple[int, ...]:
        """Which versions of before this round's end are still needed after it, in order."""
        return tuple(sorted(v for v, last in self._last.items() if v <= after < last))

    @property
    def latest(self) -> int:
        """Of all updates, by how many rounds the latest is late."""
        return max(tau for course in self._courses for tau in course.staleness.values())

    @cached_property
    def _last(self) -> dict[int, int]:
        """Of each version the last round that needs it."""
        return {v: course.number for course in self._courses for v in self.versions(course.number)}

    @cached_property
    def _courses(self) -> list[RoundCourse]:
        return list(_Play(self).courses())


@dataclass
class _Play:
    """The course of events."""

    of: Buffered
    now: float = 0.0
    version: int = 0
    drawings: int = 0
    turns: int = 0
    heap: list[Ending] = field(default_factory=list)
    waiting: list[Ending] = field(default_factory=list)
    over: list[Ending] = field(default_factory=list)

    def courses(self) -> Iterator[RoundCourse]:
        began = 0.0
        self.busy = np.zeros(len(self.of.pace.work), bool)
        self._begin()
        while self.version < self.of.rounds:
            if not self.heap:
                raise self._nobody()
            self.now = self.heap[0].at
            while self.heap and self.heap[0].at == self.now:
                self._end(heapq.heappop(self.heap))
                if len(self.waiting) == self.of.buffer:
                    yield self._flushed(began)
                    began = self.now
                    if self.version == self.of.rounds:
                        return
            self._begin()

    def _end(self, e: Ending) -> None:
        """A turn is over; an update stays in the buffer, and so does its client."""
        late, most = self.version - e.version, self.of.system.max_staleness
        if e.status == COUNTED and most is not None and late > most:
            e = e._replace(status=STALE)
        if e.status == COUNTED:
            self.waiting.append(e)
        elif e.client >= 0:
            self.busy[e.client] = False
            self.over.append(e)

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

    def _begin(self) -> None:
        """Free places are taken by clients who are there and do nothing else."""
        pace, there = self.of.pace, self.of.pace.fleet.there
        free = self.of.concurrency - sum(e.client >= 0 for e in self.heap)
        idle = ~self.busy if there is None else ~self.busy & there.on(self.now)
        here = np.flatnonzero(idle)
        n = min(free, len(here))
        if n > 0:
            chosen = here[drawn_from(pace.seed, self.version, len(here), n, self.drawings)].tolist()
            seconds, silent = pace.drawn(self.version, self.drawings)
            stays = pace.until(self.now) - self.now
            self.drawings, self.turns = self.drawings + 1, self.turns + n
            for c in chosen:
                heapq.heappush(self.heap, self._turn(c, float(seconds[c]), bool(silent[c]), float(stays[c])))
            self.busy[chosen] = True
        if self.turns > PATIENCE * self.of.buffer:
            raise self._nobody()
        if free > n and there is not None:
            self._wake(there.back(self.now)[~self.busy & ~idle])

    def _turn(self, client: int, seconds: float, silent: bool, stays: float) -> Ending:
        """What will become of it. Who falls silent is waited for as long as its answer would have taken, or until the deadline."""
        deadline = self.of.system.deadline or inf
        late = LEFT if stays < deadline else LATE
        status = DROPPED if silent else late if seconds > min(stays, deadline) else COUNTED
        lasts = min(seconds, deadline, stays if status == LEFT else inf)
        return Ending(self.now + lasts, client, status, self.version, self.now, seconds)

    def _wake(self, back: np.ndarray) -> None:
        """One looks again when the next client comes."""
        when = float(back.min(initial=inf))
        if when < inf and not any(e.client < 0 and e.at <= when for e in self.heap):
            heapq.heappush(self.heap, Ending(when, -1, -1, self.version, self.now, 0.0))

    def _nobody(self) -> ConfigError:
        return ConfigError(
            f"system: expected {self.of.buffer} updates (system.buffer) for round {self.version}, got too few for ever: after "
            f"{self.now:g} simulated seconds clients are not there, fall silent or are too slow; raise system.deadline or "
            "system.max_staleness, lower system.dropout, or let availability repeat"
        )


def weight(system: System, staleness: int) -> float:
    """Of an update that is so many rounds late: 1 or (1 + τ)^−a, which is 1 where it is not late."""
    return 1.0 if system.staleness == "constant" else (1.0 + staleness) ** -system.staleness_exponent
