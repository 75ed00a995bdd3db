"""State: named tensors, and the algebra that methods are written in.

A name is `part/site/tensor`, as in `lora/model.layers.0.self_attn.q_proj/a`; the part says what the tensor is for
(see `algorithm.Part`). Inside a client's process every tensor carries a leading seat axis of length K; on the
server it does not. Nothing here imports torch: tensors bring their own methods, so that method files load in no time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]
else:
    State = dict

Shapes = dict[str, tuple[int, ...]]
"""Name to shape, without the seat axis."""


@dataclass(frozen=True)
class Update:
    """All that ever leaves a client. `weights` are its shared parameters, `aux` whatever else a method must send."""

    weights: State = field(default_factory=dict)
    aux: State = field(default_factory=dict)


@dataclass(frozen=True)
class ServerState:
    """What the server has: `sent` goes to the clients, `kept` (momenta and the like) never does."""

    sent: Update
    kept: State = field(default_factory=dict)


@dataclass(frozen=True)
class ClientState:
    """What a client owns and never sends: private parameters (`weights`) and whatever a method remembers (`memory`)."""

    weights: State = field(default_factory=dict)
    memory: State = field(default_factory=dict)


def part_of(name: str) -> str:
    """The part that a tensor's name belongs to: all before the first slash."""
    return name.split("/", 1)[0]


def select(state: dict[str, T], parts: Iterable[str]) -> dict[str, T]:
    """The tensors (or shapes) of these parts."""
    wanted = frozenset(parts)
    return {name: t for name, t in state.items() if part_of(name) in wanted}


def renamed(state: State, part: str) -> State:
    """The same tensors as those of another part of the same kind."""
    return {f"{part}/{name.split('/', 1)[1]}": t for name, t in state.items()}


def under(prefix: str, state: State) -> State:
    """The same tensors with `prefix/` before their names: a copy of a whole state within another."""
    return {f"{prefix}/{name}": t for name, t in state.items()}


def below(prefix: str, state: State) -> State:
    """The tensors whose names start with `prefix/`, without it: undoes `under`."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in state.items() if name.startswith(f"{prefix}/")}


def add(x: State, y: State, scale: float = 1.0) -> State:
    """x + scale · y, over the names of x."""
    return {name: t + scale * y[name] for name, t in x.items()}


def scaled(x: State, scale: float) -> State:
    """scale · x."""
    return {name: scale * t for name, t in x.items()}


def dot(x: State, y: State) -> Tensor:
    """⟨x, y⟩ per seat, over the names of y: tensors [K, …] in, [K] out."""
    terms = [(x[name] * t).flatten(1).sum(1) for name, t in y.items()]
    return sum(terms[1:], terms[0])


def sqdist(x: State, y: State) -> Tensor:
    """‖x − y‖² per seat, over the names of y: tensors [K, …] in, [K] out."""
    terms = [(x[name] - t).square().flatten(1).sum(1) for name, t in y.items() if t.is_floating_point()]
    return sum(terms[1:], terms[0])


def seat(state: State, k: int) -> State:
    """Seat k's own values, without the seat axis."""
    return {name: t[k] for name, t in state.items()}


def widen(state: State, seats: int) -> State:
    """The same value in every seat: [...] to [K, ...], without copying."""
    return {name: t.expand(seats, *t.shape) for name, t in state.items()}
