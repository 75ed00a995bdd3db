"""When clients are there: intervals of simulated seconds, which may repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

Interval = tuple[float, float]
"""From a second on to before another."""


@dataclass(frozen=True, eq=False)
class Availability:
    """Each of N clients' intervals, in order and apart from each other: starts and ends [N, M], filled up with inf; they repeat after
    `period` seconds [N] (inf: never)."""

    starts: np.ndarray
    ends: np.ndarray
    period: np.ndarray

    @classmethod
    def of(cls, intervals: Sequence[Sequence[Interval]], periods: Sequence[float]) -> Availability:
        """Of every client's intervals, in any order, and period. One that crosses the end of a period goes on at its beginning."""
        tidy = [joined(wrapped(own, period)) for own, period in zip(intervals, periods, strict=True)]
        starts = np.full((len(tidy), max(map(len, tidy), default=0) or 1), inf)
        ends = starts.copy()
        for k, own in enumerate(tidy):
            if own:
                starts[k, : len(own)], ends[k, : len(own)] = zip(*own, strict=True)
        return cls(starts, ends, np.array(periods, float))

    def of_some(self, who: np.ndarray) -> Availability:
        """That of these clients, by number."""
        return Availability(self.starts[who], self.ends[who], self.period[who])

    def on(self, now: float) -> np.ndarray:
        """[N] who is there."""
        at = self._phase(now)[:, None]
        return np.any((self.starts <= at) & (at < self.ends), axis=1)

    def until(self, now: float) -> np.ndarray:
        """[N] the second before which those who are there stay; `now` for the others."""
        at = self._phase(now)
        here = (self.starts <= at[:, None]) & (at[:, None] < self.ends)
        end = np.where(here, self.ends, -inf).max(1)
        # An interval up to the end of the period goes on with one from its beginning; then that one's end, a period later.
        onward = (end >= self.period) & (self.starts[:, 0] == 0)
        always = onward & (self.ends[:, 0] >= self.period)
        end = np.where(always, inf, np.where(onward, self.period + self.ends[:, 0], end))
        return np.where(here.any(1), now + (end - at), now)

    def back(self, now: float) -> np.ndarray:
        """[N] when those who are not there come next (inf: never); `now` for the others."""
        at = self._phase(now)
        later = np.where(self.starts > at[:, None], self.starts, inf).min(1)
        next_period = np.where(np.isfinite(self.period), self.period + self.starts[:, 0], inf)
        return np.where(self.on(now), now, now + (np.minimum(later, next_period) - at))

    def _phase(self, now: float) -> np.ndarray:
        return np.where(np.isfinite(self.period), np.mod(now, self.period), now)


def wrapped(intervals: Sequence[Interval], period: float) -> list[Interval]:
    """Intervals within one period: what crosses its end comes in two pieces."""
    if period == inf:
        return list(intervals)
    found: list[Interval] = []
    for start, end in intervals:
        if end - start >= period:
            return [(0.0, period)]
        first = start % period
        last = first + (end - start)
        found += [(first, last)] if last <= period else [(first, period), (0.0, last - period)]
    return found


def joined(intervals: Sequence[Interval]) -> list[Interval]:
    """In order, those that touch or overlap as one; empty ones left out."""
    found: list[Interval] = []
    for start, end in sorted(i for i in intervals if i[0] < i[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found
