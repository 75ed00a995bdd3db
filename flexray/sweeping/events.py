"""What happens while a sweep runs."""

from __future__ import annotations

from dataclasses import dataclass

from flexray.sweeping.spec import Point


@dataclass(frozen=True)
class Planned:
    """So many of the trials are planned; before any of them starts."""

    trials: int
    of: int


@dataclass(frozen=True)
class Begun:
    """So many trials at the most, of which some are over already; `slots` of them go side by side."""

    trials: int
    over: int
    slots: int
    skipped: int = 0


@dataclass(frozen=True)
class Rounds:
    """A trial has played so many of its rounds, 0 when it is to start; value: the number to choose by, if clients were scored."""

    number: int
    point: Point
    rounds: int
    of: int
    value: float | None = None


@dataclass(frozen=True)
class Ended:
    """A trial is finished, was stopped as it did badly, or has failed."""

    number: int
    point: Point
    status: str
    value: float | None
    why: str | None = None


Event = Planned | Begun | Rounds | Ended
