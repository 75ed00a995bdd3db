"""What the loop over a round's tasks asks of those who do them, and of the policy: protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from flexray.sim.failure import Kind, Trouble
from flexray.sim.redo import Heard
from flexray.sim.schedule import Group


class Died(Exception):
    """A call came to nothing, as an actor died: that of a place, the so manieth there."""

    def __init__(self, actor: int, life: int, why: str, kind: Kind = "died", clients: Group = ()):
        super().__init__(why)
        self.actor, self.life, self.why, self.clients = actor, life, why, clients
        self.kind: Kind = kind


class Crew(Protocol):
    """Processes by their places. lives: how many have died at each. opening: the calls that are over once a process is up, by the places
    that are vacant until then."""

    lives: list[int]
    opening: dict[int, Any]

    def wait(self, calls: list[Any], seconds: float) -> Any | None:
        """One of the calls that is over, if one is in time."""
        ...

    def get(self, call: Any) -> Any:
        """What a call gave. Raises Died."""
        ...

    def replace(self, dead: Died) -> None:
        """A new process takes the place, which is vacant until it is up."""
        ...

    def stop(self, actor: int) -> None:
        """Ends a process that takes too long: its calls raise Died."""
        ...


class Again(Protocol):
    """What follows when tasks come back, or do not; see `Redo`."""

    @property
    def defers(self) -> bool: ...

    def heard(self, task: Any, report: Any) -> Heard: ...

    def again(self, task: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]: ...

    def died(self, clients: Group, why: str, kind: Kind, at: Sequence[Any]) -> Trouble: ...
