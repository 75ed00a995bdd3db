"""What an actor does with its clients' private state between turns: some stays in memory, all is written to files meanwhile.

Files are the truth. What is in memory is known by the round after which it was written, and taken only if that is the one asked for.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, NamedTuple

from flexray.errors import RunError
from flexray.sim.planning.gauge import free_memory
from flexray.sim.private.store import PrivateStore
from flexray.state import ClientState

SHARE = 0.25
"""Of the memory that is free at the start, divided among the actors."""


class _Kept(NamedTuple):
    """A state in memory: of after which round, bytes, and the writing of its file."""

    round: int
    state: ClientState
    size: int
    writing: Future[None] | None


class _Going(NamedTuple):
    """A file that is being written: whose, and its bytes."""

    client: int
    writing: Future[None]
    size: int


class Keeper:
    """Private state of one process's clients. Not more than `room` bytes and `most` clients stay in memory, the latest ones.

    behind: writing is left to a thread, one state after another, while training goes on; `flush` waits for it. What went wrong is a
    RunError as soon as it is known, which may be in a later client's turn. Then as much as `room` may wait to be written; and states are
    read ahead by another thread.
    """

    def __init__(self, store: PrivateStore, room: int, most: int, behind: bool):
        self.store, self.room, self.most = store, room, most
        self.seconds = 0.0
        """Waited for files so far."""
        self._here: OrderedDict[int, _Kept] = OrderedDict()
        self._bytes = 0
        self._coming: dict[tuple[int, int], Future[ClientState]] = {}
        self._going: deque[_Going] = deque()
        self._writer, self._reader = (ThreadPoolExecutor(1) for _ in range(2)) if behind else (None, None)

    def load(self, client: int, before: int, known: Mapping[int, int] | None = None) -> ClientState | None:
        """The state as it was before round `before`; None for a newcomer. known: the rounds after which states were written, for those
        who have any; without it the files are looked at."""
        started = perf_counter()
        try:
            if known is None:
                self.flush()
                round = self.store.newest(client, before)
            else:
                round = known.get(client)
            return None if round is None else self._get(client, round)
        finally:
            self.seconds += perf_counter() - started

    def keep(self, client: int, round: int, state: ClientState) -> bool:
        """What the client owns after `round`: into memory, and into its file. Its tensors must stay as they are. False: it owns nothing."""
        size = _size(state)
        if not (state.weights or state.memory):
            return False
        started = perf_counter()
        writing = self._later(client, lambda: self.store.save(client, round, state), size)
        self._put(client, _Kept(round, state, size, writing))
        self.seconds += perf_counter() - started
        return True

    def ahead(self, states: Iterable[tuple[int, int]]) -> None:
        """Begins to read what these clients owned after these rounds."""
        if self._reader is None:
            return
        wanted = [key for key in states if not self._has(*key)]
        self._coming = {key: self._coming.get(key) or self._reader.submit(self.store.read, *key) for key in wanted}

    def drop(self, clients: Iterable[int]) -> None:
        """Out of memory: somebody has written into it."""
        for client in clients:
            if client in self._here:
                self._bytes -= self._here.pop(client).size

    def flush(self) -> None:
        """Returns when all is at rest in files."""
        started = perf_counter()
        while self._going:
            self._written()
        self.seconds += perf_counter() - started

    def close(self) -> None:
        """Ends the threads, when they have done what is left to do."""
        for thread in (self._writer, self._reader):
            if thread is not None:
                thread.shutdown(wait=True)

    def _has(self, client: int, round: int) -> bool:
        return client in self._here and self._here[client].round == round

    def _get(self, client: int, round: int) -> ClientState:
        if self._has(client, round):
            self._here.move_to_end(client)
            here = self._here[client]
            if here.writing is not None:
                here.writing.result()  # whoever gets it may write into it
            return here.state
        coming = self._coming.pop((client, round), None)
        state = coming.result() if coming else self.store.read(client, round)
        self._put(client, _Kept(round, state, _size(state), None))
        return state

    def _put(self, client: int, kept: _Kept) -> None:
        self.drop([client])
        self._here[client] = kept
        self._bytes += kept.size
        while self._here and (self._bytes > self.room or len(self._here) > self.most):
            self._bytes -= self._here.popitem(last=False)[1].size

    def _later(self, client: int, write: Callable[[], None], size: int) -> Future[None] | None:
        if self._writer is None:
            write()
            return None
        writing = self._writer.submit(write)
        self._going.append(_Going(client, writing, size))
        while self._going and (self._going[0].writing.done() or sum(g.size for g in self._going) > max(self.room, size)):
            self._written()
        return writing

    def _written(self) -> None:
        """Waits for the oldest file."""
        client, writing, _ = self._going.popleft()
        try:
            writing.result()
        except Exception as e:
            name = self.store.names[client]
            raise RunError(f"private state of client {name} could not be written: {type(e).__name__}: {e}") from e


def room(actors: int) -> int:
    """Bytes that an actor, one of so many on a node, may use for what it could as well read again."""
    return int(SHARE * free_memory()[0] / actors)


def _size(state: ClientState) -> int:
    every: Any = (*state.weights.values(), *state.memory.values())
    return sum(t.nbytes for t in every)
