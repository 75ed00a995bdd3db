"""The server in a file: with it a round is committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from flexray.errors import ConfigError
from flexray.sim.private import at_rest
from flexray.sim.work import Server
from flexray.state import ServerState, State, Update

EVERYBODYS = 0o666
"""Mode of the file, less what the user's umask takes away: nothing in it is any client's own."""
RESTS = "rests"
"""Of the tensor [C, 2] that says whose private state was written after which round."""


class Saved(NamedTuple):
    """What a round was committed with. rests: after which round the private state of clients was last written."""

    server: Server
    round: int
    rests: dict[int, int]


def write(path: Path, server: Server, round: int, rests: Mapping[int, int] | None = None, about: str = "") -> None:
    """The server as it is after `round`. about: the run."""
    every = [(f"{kind}{i}", state) for i, s in server.numbered() for kind, state in _kinds(s)]
    every += [(f"past{r}-{kind}", state) for r, sent in server.past.items() for kind, state in _kinds(ServerState(sent))[:2]]
    tensors = {f"{tag}|{name}": t.detach().cpu() for tag, state in every for name, t in state.items()}
    if rests:
        tensors[RESTS] = torch.tensor(sorted(rests.items()), dtype=torch.int32)
    told = {"round": round, "clusters": server.clusters, "states": len(server.states), "past": [*server.past], "run": about}
    at_rest.write(path, tensors, {"server": json.dumps(told)}, EVERYBODYS)


def read(path: Path, about: str | None = None) -> Saved:
    """What `write` wrote. Raises ConfigError if that is not there any more as it was, or of another run than the one asked for."""
    try:
        tensors, words = at_rest.read_with(path)
        told = json.loads(words["server"])
        if about not in (None, told["run"]):
            raise at_rest.DamagedError("it was made with other settings than config.yaml has")
    except (at_rest.DamagedError, OSError, KeyError, ValueError) as e:
        raise ConfigError(
            f"run: expected the server's state as this run wrote it, got {str(path)!r}, which is damaged or of another run ({e}); put the "
            "file (and config.yaml) back as it was, or start the run anew"
        ) from None
    states = [
        ServerState(Update(_under(tensors, f"weights{i}"), _under(tensors, f"aux{i}")), _under(tensors, f"kept{i}"))
        for i in range(told["states"])
    ]
    past = {r: Update(*(_under(tensors, f"past{r}-{kind}") for kind in ("weights", "aux"))) for r in told.get("past", ())}
    rests = tensors.get(RESTS, torch.empty(0, 2, dtype=torch.int32)).tolist()
    return Saved(Server(tuple(states), tuple(told["clusters"]), past), told["round"], dict(rests))


def _kinds(state: ServerState) -> tuple[tuple[str, State], ...]:
    return ("weights", state.sent.weights), ("aux", state.sent.aux), ("kept", state.kept)


def _under(tensors: State, tag: str) -> State:
    return {name.removeprefix(f"{tag}|"): t for name, t in tensors.items() if name.startswith(f"{tag}|")}
