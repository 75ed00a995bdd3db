"""The loop over a round's tasks: who takes which, who gives sums to whom, and what is done once more when somebody dies. Knows a crew,
not Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from flexray.errors import RunError
from flexray.sim.crews import Again, Crew, Died
from flexray.sim.failure import Trouble
from flexray.sim.merging import Merge, Merging
from flexray.sim.queues import Queues

IN_FLIGHT = 2
"""Tasks queued at an actor: one at work and one ready, so that it never waits for the driver."""
STARTING = 1800.0
"""Seconds to wait, if no place has a process and nobody can go on; a node may be on its way."""
TICK = 1.0
"""Seconds between looking whether somebody takes too long."""


@dataclass
class Call:
    """A call that is not over: of a task; or of giving sums, those of the tasks `moving`, to the driver, or, by their reference `sums`,
    from a `giver` to the actor; or of `opening` a vacant place. seconds: in which it must be over, from when its actor comes to it;
    life: how many had died at its place when it was made."""

    actor: int
    task: Any = None
    moving: list[Any] = field(default_factory=list)
    sums: Any = None
    giver: int = -1
    seconds: float | None = None
    life: int = 0
    opening: bool = False


@dataclass
class Spread:
    """do: begins a task at an actor, given the one that may follow there: the call, and its seconds; give: has an actor give its sums,
    and absorb has another add them: the call. home: whose a task is to be done once more; None: whoever's."""

    crew: Crew
    queues: Queues[Any]
    redo: Again
    do: Callable[[int, Any, Any], tuple[Any, float | None]]
    merging: Merging | None = None
    give: Callable[[int], Any] = lambda a: None
    absorb: Callable[[int, Any], Any] = lambda a, sums: None
    home: Callable[[Any], int | None] = lambda task: None
    patience: float | None = None
    """Seconds for giving and absorbing."""

    def __post_init__(self) -> None:
        actors = range(len(self.crew.lives))
        self._calls: dict[Any, Call] = {}
        self._busy = Counter[int]()  # all calls by actor
        self._held: list[list[Any]] = [[] for _ in actors]  # tasks whose sums, or clients' states, may be there alone
        self._ended: set[int] = set()
        self._new: set[int] = set()
        self._looked = self._worked = perf_counter()
        self._since = [self._looked for _ in actors]
        self._stopped: set[int] = set()
        self._vacant = self.queues.vacant
        for a in actors:
            self._await(a)

    def run(self) -> Iterator[tuple[Any, Any] | Trouble | list[Any]]:
        """Does everything. Yields what of each task is done, with what it gave; troubles; and sums that have come to the driver."""
        for _ in range(IN_FLIGHT):
            for a in range(len(self._held)):
                self._feed(a)
        self._all_idle()
        while len(self._calls) > len(self._vacant) or self.queues.left():
            ref = self.crew.wait(list(self._calls), TICK)
            self._look()
            if ref is not None:
                call = self._calls.pop(ref)
                self._busy[call.actor] -= not call.opening
                self._since[call.actor] = max(self._since[call.actor], perf_counter())
                yield from self._over(call, ref)

    def _over(self, call: Call, ref: Any) -> Iterator[Any]:
        try:
            result = self.crew.get(ref)
        except Died as dead:
            yield from self._lost(call, dead)
            return
        if call.life != self.crew.lives[call.actor] and (call.task is not None or call.sums is not None):
            del result  # it was done, and is lost with who did it
            yield from self._lost(call, Died(call.actor, call.life, ""))
            return
        del ref  # with the result, it would keep memory of the object store until the next one comes
        if call.opening:
            self._vacant.discard(call.actor)
            self.crew.opening.pop(call.actor, None)
            self._all_fed()
        elif call.task is not None:
            self._feed(call.actor)
            yield from self._came(call, result)
        elif call.giver >= 0:
            self._held[call.actor] += call.moving
        elif result:
            yield result
        del result
        self._idle(call.actor)

    def _came(self, call: Call, result: Any) -> Iterator[Any]:
        """A task came back."""
        heard = self.redo.heard(call.task, result[1] if isinstance(result, tuple) else result)
        if heard.well is not None:
            if self.merging is not None:
                self._held[call.actor].append(heard.well)
            yield heard.well, result
        yield from heard.troubles
        for task in heard.again:
            self.queues.back(call.actor, task, last=self.redo.defers)
        if heard.empty:
            yield list(heard.empty)
        if heard.again:
            self._all_fed()

    def _lost(self, call: Call, dead: Died) -> Iterator[Any]:
        """A call came to nothing. Whose sums had not left the dead actor are trained once more, wherever they came from."""
        if dead.actor < 0:
            dead = Died(call.actor, self.crew.lives[call.actor], dead.why, dead.kind)
        lost = [call.task] if call.task is not None else []
        if self.crew.lives[dead.actor] == dead.life:
            at = [*lost, *(c.task for c in self._calls.values() if c.actor == dead.actor and c.task is not None)]
            if dead.actor in self._stopped:
                yield self.redo.died(dead.clients, "did not answer any more", "late", at)
            else:
                yield self.redo.died(dead.clients, dead.why, dead.kind, at)
            lost += self._bury(dead)
        if call.sums is not None and dead.actor == call.actor:  # who was to take them
            self._submit(call.sums, Call(call.giver, moving=call.moving, seconds=self.patience))
        else:
            lost += call.moving
        for task in reversed(lost):
            again, empty = self.redo.again(task)
            for one in reversed(again):
                home = self.home(one)
                self.queues.back(dead.actor if home is None else home, one)
            if empty:
                yield list(empty)
        self._all_fed()

    def _bury(self, dead: Died) -> list[Any]:
        """Another takes the place, and knows nothing. Gives the tasks whose sums are lost."""
        self.crew.replace(dead)
        a = dead.actor
        held, self._held[a] = self._held[a], []
        self._new.add(a)
        self._stopped.discard(a)
        if a in self._ended and self.merging is not None:
            self._ended.remove(a)
            self.merging.again(a)
        self._await(a)
        return held

    def _await(self, a: int) -> None:
        """If a place is vacant: nothing is asked of it, nor waited for, until somebody is there."""
        if (opening := self.crew.opening.get(a)) is not None:
            self._new.add(a)
            self._vacant.add(a)
            self._calls[opening] = Call(a, opening=True, life=self.crew.lives[a])

    def _feed(self, a: int) -> None:
        """One more task for an actor, if there is one for it."""
        if a in self._vacant or (task := self.queues.take(a)) is None:
            return
        if a in self._ended:
            self._ended.remove(a)
            assert self.merging is not None
            self.merging.again(a)
        ref, seconds = self.do(a, task, self.queues.peek(a))
        self._submit(ref, Call(a, task, seconds=seconds))

    def _submit(self, ref: Any, call: Call) -> None:
        if not self._busy[call.actor]:
            self._since[call.actor] = max(self._since[call.actor], perf_counter())
        call.life = self.crew.lives[call.actor]
        self._busy[call.actor] += 1
        self._calls[ref] = call

    def _all_fed(self) -> None:
        """There is more to do: for whoever has room."""
        for a in range(len(self._held)):
            while a not in self._vacant and self._busy[a] < IN_FLIGHT and self.queues.peek(a) is not None:
                self._feed(a)
        self._all_idle()

    def _all_idle(self) -> None:
        for a in range(len(self._held)):
            self._idle(a)

    def _idle(self, a: int) -> None:
        """If an actor has nothing left to do, its sums go to where they are wanted."""
        if self.merging is None or self._busy[a] or a in self._ended:
            return
        if a not in self._vacant and self.queues.peek(a) is not None:
            return
        self._ended.add(a)
        nothing = a in self._new and not self._held[a]
        merge = self.merging.nothing(a) if nothing else self.merging.ready(a)
        if merge is not None:
            self._merge(merge)

    def _merge(self, merge: Merge) -> None:
        giver, taker = merge
        sums, moving = self.give(giver), self._held[giver]
        self._held[giver] = []
        if taker is None:
            self._submit(sums, Call(giver, moving=moving, seconds=self.patience))
        else:
            self._ended.discard(taker)
            self._submit(
                self.absorb(taker, sums),
                Call(taker, moving=moving, sums=sums, giver=giver, seconds=self.patience and 2 * self.patience),
            )

    def _look(self) -> None:
        """Now and then: who takes too long is stopped."""
        now = perf_counter()
        if now - self._looked < TICK:
            return
        self._looked = now
        self._worked = now if len(self._calls) > len(self._vacant) else self._worked
        if now - self._worked > STARTING:
            raise RunError(
                f"for {STARTING / 60:g} minutes no client actor could be started: is there no node with room for one?"
            )
        seen: set[int] = set()
        for call in list(self._calls.values()):
            if call.actor not in seen and call.seconds is not None and now - self._since[call.actor] > call.seconds:
                late = call.actor
                if call.sums is not None and self.crew.wait([call.sums], 0) is None:
                    late = call.giver  # it is waited for
                self._stopped.add(late)
                self.crew.stop(late)
            seen.add(call.actor)
