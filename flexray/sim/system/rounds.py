"""Synchronous rounds on the simulated clock: a pure function of the seed, the round and the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf

import numpy as np

from flexray.errors import ConfigError
from flexray.sections_system import System
from flexray.sim.schedule import drawn_from
from flexray.sim.system.turns import COUNTED, DISCARDED, DROPPED, LATE, LEFT, VOID, Pace, RoundCourse, Turns

REMEMBERED = 8
"""Rounds of which everything is kept; of the others only when they began."""


@dataclass
class Rounds:
    """Each round begins when the one before has ended, or when enough clients are there. cohort: how many updates a round wants (of
    those who can be asked), None for all."""

    system: System
    pace: Pace
    cohort: int | None
    _began: list[float] = field(default_factory=lambda: [0.0])
    _kept: dict[int, RoundCourse] = field(default_factory=dict)

    def round(self, number: int) -> RoundCourse:
        """One of them."""
        if number not in self._kept:
            for r in range(min(number, len(self._began) - 1), number + 1):
                self._keep(self._played(r, self._began[r]))
        return self._kept[number]

    def _keep(self, course: RoundCourse) -> None:
        self._kept[course.number] = course
        if len(self._kept) > REMEMBERED:
            del self._kept[next(iter(self._kept))]
        if len(self._began) == course.number + 1:
            self._began.append(course.ended)

    def _played(self, number: int, now: float) -> RoundCourse:
        began = self._enough(number, now)
        asked = self._asked(number, began)
        wanted = len(asked) if self.cohort is None else min(self.cohort, len(asked))
        # Drawn for all, so that over-selection changes nobody's lot.
        seconds, silent = (own[asked] for own in self.pace.drawn(np.arange(len(self.pace.work)), number))
        stays = self.pace.until(began, asked) - began
        status, took = ended(seconds, silent, stays, wanted, self.system.deadline or inf)
        if (status == COUNTED).sum() < self.system.min_updates:
            status = np.where(status == COUNTED, VOID, status)
        n = len(asked)
        # What a silent client would have taken is nobody's to know, but it costs nothing to tell.
        return RoundCourse(
            number, began, began + took, took, Turns(asked, status, np.full(n, began), seconds, np.zeros(n, int))
        )

    def _asked(self, number: int, now: float) -> np.ndarray:
        """Those who are selected, in order: of those who are there, so many times the cohort."""
        there = self.pace.fleet.there
        here = np.arange(len(self.pace.work)) if there is None else np.flatnonzero(there.on(now))
        if self.cohort is None:
            return here
        size = min(len(here), ceil(self.cohort * self.system.over_selection - 1e-9))
        return here[np.sort(drawn_from(self.pace.seed, number, len(here), size))]

    def _enough(self, number: int, now: float) -> float:
        """When as many are there as the round needs."""
        there = self.pace.fleet.there
        while there is not None and there.on(now).sum() < self.system.min_updates:
            # those who are there may go before others come: one looks again whenever somebody comes
            on = there.on(now)
            now = float(np.where(on, inf, there.back(now)).min())
            if now == inf:
                raise ConfigError(
                    f"system.availability: expected {self.system.min_updates} clients (system.min_updates) to be there for round {number}, "
                    "got fewer for ever; let the intervals repeat (system.availability_period), or ask for less"
                )
        return now


def ended(
    seconds: np.ndarray, silent: np.ndarray, stays: np.ndarray, wanted: int, deadline: float
) -> tuple[np.ndarray, float]:  # fmt: skip
    """What becomes of N clients that are asked at once [N], and how long the round takes: until the `wanted` first have answered, else
    until the deadline; without one, until all have answered who do (if nobody does, until it would have been)."""
    left, late = (seconds > stays) & (stays < deadline), seconds > deadline
    status = np.select([silent, left, late], [DROPPED, LEFT, LATE], DISCARDED)
    back = np.flatnonzero(status == DISCARDED)
    first = back[np.argsort(seconds[back], kind="stable")][:wanted]
    status[first] = COUNTED
    if len(first) == wanted or (deadline == inf and len(first)):
        return status, float(seconds[first].max(initial=0.0))
    return status, float(np.minimum(np.minimum(seconds, stays), deadline).max(initial=0.0)) if deadline == inf else deadline
