"""The node store: clients' private state at rest, in files that only their owner may read."""

import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import load_file, save_file

from flexray.state import ClientState, State

NEWCOMER = -1
"""The round after which a client owns what it starts with."""


class PrivateStore:
    """One folder per client, one file per round, the two newest kept. Every write is whole or absent.

    Files, not the object store: private tensors are nobody else's, and a file outlives the process that wrote it.
    """

    def __init__(self, root: Path, names: Sequence[str]):
        self.root, self.names = root, names
        self.seconds = 0.0
        """Spent on reading and writing so far."""

    def folder(self, client: int) -> Path:
        """Where this client's files are. The number keeps names apart that differ only in odd characters."""
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.names[client])[:60]
        return self.root / f"{client:05d}-{safe}"

    def load(self, client: int, before: int) -> ClientState | None:
        """The state as it was before round `before`, or None for a newcomer."""
        started = perf_counter()
        rounds = [r for r in self._rounds(client) if r < before]
        if not rounds:
            return None
        tensors = load_file(self._file(client, max(rounds)))
        self.seconds += perf_counter() - started
        return ClientState(_under(tensors, "weights"), _under(tensors, "memory"))

    def save(self, client: int, round: int, state: ClientState) -> None:
        """What the client owns after `round`. A state without tensors leaves no file."""
        tensors = {f"weights|{n}": t for n, t in state.weights.items()}
        tensors |= {f"memory|{n}": t.clone() for n, t in state.memory.items()}  # it may be what is among the weights too
        if not tensors:
            return
        started, folder = perf_counter(), self.folder(client)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f".{os.getpid()}.tmp"
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, temporary)
        os.chmod(temporary, 0o600)
        os.replace(temporary, self._file(client, round))
        for old in self._rounds(client)[:-2]:
            self._file(client, old).unlink(missing_ok=True)
        self.seconds += perf_counter() - started

    def forget_after(self, round: int) -> None:
        """Drop what was written in rounds after `round`: they were never finished."""
        for client in range(len(self.names)):
            for r in self._rounds(client):
                if r > round:
                    self._file(client, r).unlink()

    def _rounds(self, client: int) -> list[int]:
        return sorted(int(f.stem.removeprefix("after-")) for f in self.folder(client).glob("after-*.safetensors"))

    def _file(self, client: int, round: int) -> Path:
        return self.folder(client) / f"after-{round:06d}.safetensors"


def _under(tensors: dict[str, torch.Tensor], kind: str) -> State:
    return {n.removeprefix(f"{kind}|"): t for n, t in tensors.items() if n.startswith(f"{kind}|")}
