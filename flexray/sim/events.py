"""What a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexray.metric import Number
from flexray.sim.round import RoundReport


@dataclass(frozen=True)
class Started:
    """The actors are up. round: the first one to play; replaced: how many died as they started."""

    round: int
    seconds: float
    replaced: int = 0


@dataclass(frozen=True)
class Progress:
    """A slice of a round has come back."""

    round: int
    clients: int
    of: int
    loss: float
    tokens: int

    def plus(self, later: Progress) -> Progress:
        """Both in one."""
        clients = self.clients + later.clients
        loss = (self.clients * self.loss + later.clients * later.loss) / clients
        return Progress(self.round, clients, self.of, loss, self.tokens + later.tokens)


@dataclass(frozen=True)
class RoundDone:
    """A round is finished and saved."""

    report: RoundReport


@dataclass(frozen=True)
class Evaluated:
    """Clients have been scored as they are before `round`: the mean over them of every metric, per view."""

    round: int
    clients: int
    means: dict[str, dict[str, float]]
    seconds: float
    split: str = "test"
    numbers: Mapping[str, Number] = field(default_factory=dict)
    """How each number of `means` reads."""


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint of the state after `round` is complete (bytes: new ones), or could not be made, for this reason."""

    round: int
    seconds: float
    bytes: int = 0
    error: str = ""


@dataclass(frozen=True)
class Stumbled:
    """Clients (by name) failed while they were trained or scored in a round, or a client actor died, perhaps without anybody's doing.
    They are tried again, or left out."""

    round: int
    clients: tuple[str, ...]
    doing: str
    why: str
    attempts: int
    left_out: bool


@dataclass(frozen=True)
class Finished:
    """The run is over; what summary.json holds."""

    summary: dict[str, Any]


Event = Started | Progress | RoundDone | Evaluated | Checkpointed | Stumbled | Finished
