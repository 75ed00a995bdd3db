"""Which task an actor takes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Queues(Generic[T]):
    """Tasks for anybody, and behind them each actor's own, all in their order. Who has done them takes the next one of whoever has most
    left, unless they are `bound` to their actors; `vacant` places have none, and what is theirs is for anybody."""

    def __init__(self, free: Sequence[T], own: Sequence[Sequence[T]], bound: bool = False):
        self._free, self._own, self._bound = deque(free), [deque(mine) for mine in own], bound
        self.vacant: set[int] = set()

    def take(self, actor: int) -> T | None:
        """The next task of an actor."""
        queue = self._next(actor)
        return queue.popleft() if queue else None

    def peek(self, actor: int) -> T | None:
        """What that would be now."""
        queue = self._next(actor)
        return queue[0] if queue else None

    def back(self, actor: int, task: T, last: bool = False) -> None:
        """A task that an actor took is to be done once more: as its next one, or as its last."""
        self._own += [deque() for _ in range(actor + 1 - len(self._own))]
        if last:
            self._own[actor].append(task)
        else:
            self._own[actor].appendleft(task)

    def _next(self, actor: int) -> deque[T] | None:
        for queue in self._mine(actor):
            if queue:
                return queue
        others = [self._own[a] for a in self.vacant if a < len(self._own)] if self._bound else self._own
        return max(others, key=len, default=None)

    def left(self) -> bool:
        """Whether anything waits to be taken."""
        return bool(self._free or any(self._own))

    def _mine(self, actor: int) -> Iterator[deque[T]]:
        yield self._free
        if actor < len(self._own):
            yield self._own[actor]
