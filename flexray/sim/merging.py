"""At the end of a round: who adds whose sums to its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Merge(NamedTuple):
    """The sums of `giver` go to `taker`; None: to the driver."""

    giver: int
    taker: int | None


class Merging:
    """Of actors that have nothing left to do, any two make one, first those of a node, until one has the sum of all. Nobody waits for who
    is still at work. nodes: where each actor is, or was when the round began."""

    def __init__(self, nodes: Sequence[str], among: bool):
        self._left, self._among, self._nodes = {*range(len(nodes))}, among, nodes
        self._waiting: dict[str, int] = {}

    def ready(self, actor: int) -> Merge | None:
        """An actor has done all its tasks, or has added another's sums to its own: what is to be done now. Where sums are not
        added up `among` the actors, they go to the driver."""
        node = self._nodes[actor]
        if self._waiting.get(node) == actor:
            del self._waiting[node]
        if not self._among or self._left == {actor}:
            self._left.discard(actor)
            return Merge(actor, None)
        there = node if node in self._waiting else self._over() if self._alone(actor) else None
        if there is None:
            self._waiting[node] = actor
            return None
        self._left.remove(actor)
        return Merge(actor, self._waiting.pop(there))

    def again(self, actor: int) -> None:
        """An actor that was ready has something to do again, and will be ready once more."""
        self._left.add(actor)
        if self._waiting.get(self._nodes[actor]) == actor:
            del self._waiting[self._nodes[actor]]

    def nothing(self, actor: int) -> Merge | None:
        """Ready without sums, as it is new: nobody need wait for it. Gives what is to be done now."""
        self.again(actor)
        self._left.remove(actor)
        if len(self._left) == 1 and self._left == {*self._waiting.values()}:
            return self.ready(*self._left)
        last = self._waiting.get(self._nodes[actor])
        return None if last is None else self.ready(last)

    def _alone(self, actor: int) -> bool:
        """Whether nobody else is left on its node."""
        return all(a == actor or self._nodes[a] != self._nodes[actor] for a in self._left)

    def _over(self) -> str | None:
        """A node of which one is left, who waits."""
        return next((node for node, a in self._waiting.items() if self._alone(a)), None)
