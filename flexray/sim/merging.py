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
        self._left, self._among = {*range(actors)}, among
        self._waiting: int | None = None

    def ready(self, actor: int) -> Merge | None:
        """An actor has done all its tasks, or has added another's sums to its own: what is to be done now. Where sums are not
        added up `among` the actors, they go to the driver."""
        if not self._among or self._left == {actor}:
            self._left.discard(actor)
            return Merge(actor, None)
        if self._waiting is None or self._waiting == actor:
            self._waiting = actor
            return None
        self._left.remove(actor)
        taker, self._waiting = self._waiting, None
        return Merge(actor, taker)

    def again(self, actor: int) -> None:
        """An actor that was ready has something to do again, and will be ready once more."""
        self._left.add(actor)
        if self._waiting == actor:
            self._waiting = None

    def nothing(self, actor: int) -> Merge | None:
        """Ready without sums, as it is new: nobody need wait for it. Gives what is to be done now."""
        self.again(actor)
        self._left.remove(actor)
        last = self._waiting
        if last is None or self._left != {last}:
            return None
        self._waiting = None
        return self.ready(last)
