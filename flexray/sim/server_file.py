"""The server in a file: with it a round is committed."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from flexray.sim.private import at_rest
from flexray.sim.work import Server
from flexray.state import ServerState, State, Update

EVERYBODYS = 0o666
"""Mode of the file, less what the user's umask takes away: nothing in it is any client's own."""


def write(path: Path, server: Server, round: int) -> None:
    """The server as it is after `round`."""
    every = [(f"{kind}{i}", state) for i, s in server.numbered() for kind, state in _kinds(s)]
    every += [(f"past{r}-{kind}", state) for r, sent in server.past.items() for kind, state in _kinds(ServerState(sent))[:2]]
    tensors = {f"{tag}|{name}": t.detach().cpu() for tag, state in every for name, t in state.items()}
    told = {"round": round, "clusters": server.clusters, "states": len(server.states), "past": [*server.past]}
    at_rest.write(path, tensors, {"server": json.dumps(told)}, EVERYBODYS)


def read(path: Path) -> tuple[Server, int]:
    """The server and the round it was committed in."""
    with safe_open(path, "pt") as f:
        told = json.loads(f.metadata()["server"])
    tensors = at_rest.read(path)
    states = [
        ServerState(Update(_under(tensors, f"weights{i}"), _under(tensors, f"aux{i}")), _under(tensors, f"kept{i}"))
        for i in range(told["states"])
    ]
    past = {r: Update(*(_under(tensors, f"past{r}-{kind}") for kind in ("weights", "aux"))) for r in told.get("past", ())}
    return Server(tuple(states), tuple(told["clusters"]), past), told["round"]


def _kinds(state: ServerState) -> tuple[tuple[str, State], ...]:
    return ("weights", state.sent.weights), ("aux", state.sent.aux), ("kept", state.kept)


def _under(tensors: State, tag: str) -> State:
    return {name.removeprefix(f"{tag}|"): t for name, t in tensors.items() if name.startswith(f"{tag}|")}
