"""What happens while a comparison runs."""

from __future__ import annotations

from dataclasses import dataclass

from flexray.comparison.spec import Cell


@dataclass(frozen=True)
class Begun:
    """The runs that are left to do, and how many of them go side by side; the others are finished already."""

    left: tuple[Cell, ...]
    finished: int
    jobs: int


@dataclass(frozen=True)
class Rounds:
    """A run has played so many rounds."""

    cell: Cell
    rounds: int


@dataclass(frozen=True)
class Done:
    """A run has ended: its mean scores by view and number, or why it failed."""

    cell: Cell
    means: dict[str, dict[str, float]]
    failure: str | None


Event = Begun | Rounds | Done
