"""The contract of a tracker: the numbers of a run as it goes, told to a tool that shows them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flexray.folder import Entry


@dataclass(frozen=True)
class About:
    """What a tracker is told of its run. known: what `open` gave when the run was begun; None for a new run."""

    folder: Path
    config: Mapping[str, Any]
    known: str | None


class Tracker(Entry, ABC):
    """One run at one tool, in the process that starts the run. What goes wrong in it is reported once, and the run goes on.

    needs: the package to be installed.
    """

    needs: ClassVar[str]

    @abstractmethod
    def open(self, run: About) -> str | None:
        """Begin, or go on with what is `known`; gives what to know it by when the run is resumed."""

    @abstractmethod
    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers by name (`group/name`) after `step` rounds. Steps never fall, and no name comes twice with one step."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """The end, of the run or for now. All that was told is kept."""
