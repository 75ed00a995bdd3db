"""The contract of a plot on the report page: from the tables of runs to figures, and a word on how each number was made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flexray.folder import Entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flexray.report.reading import Told


@dataclass(frozen=True)
class Numbers:
    """What a figure shows, as a table: the same values, so that they can be read, copied and checked."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Panel:
    """One figure. name: its file's, unique within its plot. says: what a reader who cannot see it should know."""

    name: str
    title: str
    figure: Figure
    says: str
    numbers: Numbers


class Plot(Entry, ABC):
    """A section of the page. heading: its title. place: low ones come first. made: how each number was made, in sentences."""

    heading: ClassVar[str]
    place: ClassVar[int]
    made: ClassVar[str]

    @abstractmethod
    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        """The figures, from the tables alone; none where the runs have nothing of the kind."""
