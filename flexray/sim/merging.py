"""At the end of a round: who adds whose sums to its own."""

from __future__ import annotations

from typing import NamedTuple


class Merge(NamedTuple):
    """The sums of `giver` go to `taker`; None: to the driver."""

    giver: int
    taker: int | None


class Merging:
    """Of actors that have nothing left to do, any two make one, until one has the sum of all. Nobody waits for who is still at work."""

    def __init__(self, actors: int, among: bool):
        self._left, self._among = actors, among
        self._waiting: int | None = None

    def ready(self, actor: int) -> Merge | None:
        """An actor has done all its tasks, or has added another's sums to its own: what is to be done now. Where sums are not
        added up `among` the actors, they go to the driver."""
        if not self._among or self._left == 1:
            self._left -= 1
            return Merge(actor, None)
        if self._waiting is None:
            self._waiting = actor
            return None
        self._left -= 1
        taker, self._waiting = self._waiting, None
        return Merge(actor, taker)
