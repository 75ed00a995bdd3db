"""Turns: who was asked, when, for how long, and what became of it, in columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np

from flexray.sim.system.fleet import Fleet, draw

COUNTED, DISCARDED, LATE, DROPPED, LEFT, VOID, STALE = range(7)
STATUS = ("counted", "discarded", "late", "dropped", "left", "void", "stale")
"""What became of a turn. discarded: others were first; late: after the deadline; dropped: it ended in silence; left: the client was no
longer there; void: too few others; stale: too many rounds late."""
SENT = (COUNTED, DISCARDED, LATE, VOID, STALE)
"""Whose update was sent, whether it counted or not."""


@dataclass(frozen=True, eq=False)
class Turns:
    """Of N turns [N]: the client, its status (its place in STATUS), seconds on the clock at its start, seconds it took (or would have),
    and how many rounds late its update was."""

    client: np.ndarray
    status: np.ndarray
    started: np.ndarray
    seconds: np.ndarray
    staleness: np.ndarray

    def __len__(self) -> int:
        return len(self.client)

    def of(self, *status: int) -> np.ndarray:
        """The clients of turns that ended so."""
        return self.client[np.isin(self.status, status)]


@dataclass(frozen=True, eq=False)
class RoundCourse:
    """A round on the clock, from `began` to `ended`, and the turns of which it consists."""

    number: int
    began: float
    ended: float
    seconds: float
    turns: Turns

    @cached_property
    def counted(self) -> tuple[int, ...]:
        """Whose updates make the round, by number."""
        return tuple(sorted(self.turns.of(COUNTED).tolist()))

    @cached_property
    def staleness(self) -> dict[int, int]:
        """Of each of these, how many rounds late."""
        t = self.turns
        return {
            int(c): int(tau) for c, tau in zip(t.client[t.status == COUNTED], t.staleness[t.status == COUNTED], strict=True)
        }


@dataclass(frozen=True, eq=False)
class Pace:
    """How long turns of each of N clients take: work in tokens, bytes down and up [N]."""

    fleet: Fleet
    work: np.ndarray
    down: np.ndarray
    up: np.ndarray
    seed: int

    @cached_property
    def crossing(self) -> np.ndarray:
        """[N] seconds in which nothing is trained: latency + down/download + latency + up/upload."""
        f = self.fleet
        return f.latency + self.down / f.download + f.latency + self.up / f.upload

    @cached_property
    def training(self) -> np.ndarray:
        """[N] slowdown·work/speed."""
        return self.fleet.slowdown * self.work / self.fleet.tokens_per_second

    @cached_property
    def loses(self) -> bool:
        """Whether anybody ever falls silent."""
        return bool(self.fleet.dropout.any())

    def drawn(self, who: np.ndarray, *turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Of these clients [K], by number, the seconds of this turn, and whether they fall silent in it."""
        k, f = len(who), self.fleet
        slow = 1.0 if f.drawn is None else draw(f.drawn, "slowdown", k, self.seed, *turn, 9)
        silent = np.zeros(k, bool)
        if self.loses:
            silent = draw({"uniform": (0, 1)}, "dropout", k, self.seed, *turn, 10) < f.dropout[who]
        return self.crossing[who] + slow * self.training[who], silent

    def until(self, now: float, who: np.ndarray) -> np.ndarray:
        """Before which second these clients [K], who are there, stay."""
        return np.full(len(who), inf) if self.fleet.there is None else self.fleet.there.of_some(who).until(now)
