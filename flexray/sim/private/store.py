"""The node store: clients' private state at rest, in files that only their owner may read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from flexray.errors import RunError
from flexray.sim.private import at_rest
from flexray.state import ClientState, State

END = ".safetensors"


class PrivateStore:
    """One folder per client, one file per round, the two newest kept. Every write is whole or absent.

    Files, not the object store: private tensors are nobody else's, and a file outlives the process that wrote it.
    """

    def __init__(self, root: Path, names: Sequence[str], run: str = ""):
        """run: whose files these are; those of another run are none of them."""
        self.root, self.names, self.run = root, names, run
        self._folders: dict[int, str] = {}

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

    def read(self, client: int, round: int) -> ClientState:
        """What was written after `round`. Raises RunError if that is not there any more as it was."""
        file = _file(self._folder(client), round)
        try:
            tensors = at_rest.read(file, self._about(client, round))
        except (at_rest.DamagedError, OSError) as e:
            raise RunError(
                f"private state of client {self.names[client]} after round {round}: {file} is damaged, or not the one that was written "
                f"there ({e}). Put the file back as it was, or start the run anew."
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
        folder = self._folder(client)
        temporary = f"{folder}/.{os.getpid()}.tmp"
        if (found := _rounds(folder)) is None:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(r for r in found or () if r < round)[:-1]:
            os.replace(_file(folder, old), temporary)
        at_rest.write(temporary, tensors, about=self._about(client, round))
        os.replace(temporary, _file(folder, round))

    def forget_after(self, round: int) -> dict[int, int]:
        """Drop what was written in rounds after `round`, which were never finished, and what was cut short. Gives whose state is here,
        and after which round."""
        found = {}
        for entry in os.scandir(self.root) if self.root.exists() else ():
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
                f"{'an older one' if client in found else 'none'}{more}. Put the files back as they were, or start the run anew."
            )

    def _about(self, client: int, round: int) -> str:
        return f"{self.run} {client} {self.names[client]} after {round}"

    def _folder(self, client: int) -> str:
        if client not in self._folders:
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.names[client])[:60]
            self._folders[client] = f"{self.root}/{client:05d}-{safe}"
        return self._folders[client]


def _rounds(folder: str) -> list[int] | None:
    """After which rounds there are files; None where there is no such folder."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [int(n.removeprefix("after-").removesuffix(END)) for n in names if n.startswith("after-") and n.endswith(END)]


def _file(folder: str, round: int) -> str:
    return f"{folder}/after-{round:06d}{END}"


def _under(tensors: State, kind: str) -> State:
    return {n.removeprefix(f"{kind}|"): t for n, t in tensors.items() if n.startswith(f"{kind}|")}
