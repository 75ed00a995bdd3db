"""The node store: clients' private state at rest, in files that only their owner may read."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flexray.errors import RunError
from flexray.sim import disk
from flexray.sim.private import at_rest
from flexray.sim.private.sealed import Seal, seal_of
from flexray.state import ClientState, State

if TYPE_CHECKING:
    from flexray.sim.job import Job

END = ".safetensors"
ELSEWHERE = "go on from a checkpoint (`flexray simulate --resume CHECKPOINT --out NEW`), or start the run anew"


class PrivateStore:
    """One folder per client, one file per round, the two newest kept. Every write is whole or absent.

    Files, not the object store: private tensors are nobody else's, and a file outlives the process that wrote it.
    """

    def __init__(self, root: Path, names: Sequence[str], run: str = "", seal: Seal | None = None, durable: bool = False):
        """run: whose files these are; those of another run are none of them. seal: encrypts them."""
        self.root, self.names, self.run, self._seal, self._durable = root, names, run, seal, durable
        self._folders: dict[int, str] = {}

    @classmethod
    def of(cls, job: Job) -> PrivateStore:
        """A run's, with its key if it has one. Raises ConfigError."""
        storage = job.experiment.storage
        return cls(job.private, [c.name for c in job.trainees], job.identity, seal_of(storage.key), storage.durable)

    def folder(self, client: int) -> Path:
        """Where this client's files are. The number keeps names apart that differ only in odd characters."""
        return Path(self._folder(client))

    def load(self, client: int, before: int) -> ClientState | None:
        """The state as it was before round `before`, or None for a newcomer."""
        round = self.newest(client, before)
        return None if round is None else self.read(client, round)

    def newest(self, client: int, before: int) -> int | None:
        """The round before `before` after which the client's state was last written."""
        return max((r for r in _rounds(self._folder(client)) or () if r < before), default=None)

    def file(self, client: int, round: int) -> Path:
        """What was, or will be, written after `round`."""
        return Path(_file(self._folder(client), round))

    def read(self, client: int, round: int) -> ClientState:
        """What was written after `round`. Raises RunError if that is not there any more as it was."""
        file = _file(self._folder(client), round)
        try:
            tensors = at_rest.read(file, self._about(client, round), self._seal)
        except (at_rest.DamagedError, OSError) as e:
            raise RunError(
                f"private state of client {self.names[client]} after round {round}: {file} is damaged, or not the one that was written "
                f"there ({e}). Put the file back as it was, {ELSEWHERE}."
            ) from None
        return ClientState(_under(tensors, "weights"), _under(tensors, "memory"))

    def save(self, client: int, round: int, state: ClientState) -> None:
        """What the client owns after `round`. A state without tensors leaves no file.

        The one from before `round` stays, for whoever has to do the round again; what is older makes room: its file is written over,
        as fresh pages would take several times as long.
        """
        tensors = {f"weights|{n}": t for n, t in state.weights.items()} | {f"memory|{n}": t for n, t in state.memory.items()}
        if not tensors:
            return
        try:
            self._write(client, round, tensors)
        except OSError as e:  # a full disk does not say which
            raise OSError(e.errno, e.strerror, _file(self._folder(client), round)) from e

    def _write(self, client: int, round: int, tensors: State) -> None:
        folder = self._folder(client)
        temporary = f"{folder}/.{this_process()}.tmp"
        if (found := _rounds(folder)) is None:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(r for r in found or () if r < round)[:-1]:
            with suppress(FileNotFoundError):  # who does the same over again, as it was thought lost, may be faster
                _make_room(_file(folder, old), temporary)
        at_rest.write(temporary, tensors, about=self._about(client, round), seal=self._seal)
        if self._durable:
            disk.rest(temporary)
        os.replace(temporary, _file(folder, round))
        if self._durable:
            disk.rest(folder)

    def drop(self, client: int, round: int) -> None:
        """As if nothing had been written after `round`."""
        Path(_file(self._folder(client), round)).unlink(missing_ok=True)

    def forget_after(self, round: int) -> dict[int, int]:
        """Drop what was written in rounds after `round`, which were never finished, and what was cut short. Gives whose state is here,
        and after which round."""
        found = {}
        for entry in os.scandir(self.root) if self.root.exists() else ():
            if entry.name.startswith("."):
                continue
            for leftover in Path(entry.path).glob(".*.tmp"):
                leftover.unlink()
            rounds = _rounds(entry.path) or []
            for r in rounds:
                if r > round:
                    os.unlink(_file(entry.path, r))
            if kept := [r for r in rounds if r <= round]:
                found[int(entry.name.partition("-")[0])] = max(kept)
        return found

    def check(self, found: Mapping[int, int], wanted: Mapping[int, int]) -> None:
        """Raises RunError unless of every client there is the state that there was when the round was committed."""
        gone = [client for client, round in wanted.items() if found.get(client) != round]
        if gone:
            client, more = gone[0], f" (and of {len(gone) - 1:,} more clients)" if len(gone) > 1 else ""
            raise RunError(
                f"private state of client {self.names[client]}: expected {_file(self._folder(client), wanted[client])}, got "
                f"{'an older one' if client in found else 'none'}{more}. Put the files back as they were, {ELSEWHERE}."
            )

    def _about(self, client: int, round: int) -> str:
        return f"{self.run} {client} {self.names[client]} after {round}"

    def _folder(self, client: int) -> str:
        if client not in self._folders:
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.names[client])[:60]
            self._folders[client] = f"{self.root}/{client:05d}-{safe}"
        return self._folders[client]


def this_process() -> str:
    """A name that no other process has, on whichever node."""
    return f"{platform.node()}-{os.getpid()}"


def _rounds(folder: str) -> list[int] | None:
    """After which rounds there are files; None where there is no such folder."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [int(n.removeprefix("after-").removesuffix(END)) for n in names if n.startswith("after-") and n.endswith(END)]


def _make_room(file: str, temporary: str) -> None:
    """An old file may be written over, unless a checkpoint still has a link to it."""
    if os.stat(file).st_nlink == 1:
        os.replace(file, temporary)
    else:
        os.unlink(file)


def _file(folder: str, round: int) -> str:
    return f"{folder}/after-{round:06d}{END}"


def _under(tensors: State, kind: str) -> State:
    return {n.removeprefix(f"{kind}|"): t for n, t in tensors.items() if n.startswith(f"{kind}|")}
