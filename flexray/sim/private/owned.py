"""What a group of clients owns in its turn: taken from the keeper, stacked over seats, and kept where it is new or has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexray.models.weights import ALIGNMENT
from flexray.sim.private.keeper import Keeper
from flexray.state import ClientState, State


@dataclass(frozen=True)
class Owned:
    """The group's state [K, …] as it was before the round; newcomers: who of them never owned anything until now."""

    group: Sequence[int]
    state: ClientState
    versions: list[int]
    newcomers: frozenset[int]

    @property
    def touched(self) -> bool:
        """Whether somebody has written into the tensors."""
        return self.versions != _versions(self.state)

    def stays(self, after: ClientState) -> bool:
        """Whether `after` is this very state: the same memory, in which nobody wrote."""
        pairs = ((self.state.weights, after.weights), (self.state.memory, after.memory))
        return not self.touched and all(x.keys() == y.keys() and all(_same(t, y[n]) for n, t in x.items()) for x, y in pairs)


def take(
    keeper: Keeper, group: Sequence[int], round: int, known: Mapping[int, int] | None, start: Callable[[], ClientState],
    device: torch.device, lent: int = 0,
) -> Owned:  # fmt: skip
    """What the group owns before `round`. known: see `Keeper.load`; lent: see `keep`. Newcomers get what `start` gives."""
    found = {number: state for number in group if (state := keeper.load(number, round, known)) is not None}
    newcomers = frozenset(group) - found.keys()
    if newcomers:
        fresh = start()
        found |= {number: _own(fresh, k, lent) for k, number in enumerate(group) if number in newcomers}
    state = _stacked([found[number] for number in group], device)
    return Owned(group, state, _versions(state), newcomers)


def release(keeper: Keeper, mine: Owned) -> None:
    """After a turn that changes nothing."""
    if mine.touched:
        keeper.drop(mine.group)


def keep(keeper: Keeper, mine: Owned, round: int, after: ClientState, lent: int) -> dict[int, int]:
    """What the group owns after `round`; gives for whom that was written. lent: the address of memory of which nothing may be kept."""
    new = mine.newcomers if mine.stays(after) else mine.group
    release(keeper, mine)
    seats = [(k, number) for k, number in enumerate(mine.group) if number in new]
    return {number: round for k, number in seats if keeper.keep(number, round, _own(after, k, lent))}


def _own(state: ClientState, k: int, lent: int) -> ClientState:
    """Seat k's state, on the CPU, in memory that nobody will write to."""
    used = {lent}

    def own(t: Tensor) -> Tensor:
        memory, piece = t.untyped_storage(), t.detach()[k]
        # A view would keep all of a larger memory that it is a part of; a smaller one is that of all seats; and a method may remember
        # what is among the weights too. As if read from files, each tensor is to be written into alone.
        shared = piece.device.type == "cpu" and (memory.data_ptr() in used or memory.nbytes() != t.nbytes)
        used.add(memory.data_ptr())
        return (piece.clone() if shared else piece.cpu()).contiguous()

    return ClientState(*({name: own(t) for name, t in tensors.items()} for tensors in (state.weights, state.memory)))


def _stacked(states: Sequence[ClientState], device: torch.device) -> ClientState:
    """Alone, views, unless it lies in memory as no new tensor does: then sums might have other bits."""

    def stack(each: Sequence[State]) -> State:
        assert all(one.keys() == each[0].keys() for one in each), "a client's state must have the same names in every round"
        if len(each) == 1:
            return {name: (t.clone() if t.data_ptr() % ALIGNMENT else t)[None].to(device) for name, t in each[0].items()}
        return {name: torch.stack([one[name] for one in each]).to(device) for name in each[0]}

    return ClientState(stack([s.weights for s in states]), stack([s.memory for s in states]))


def _versions(state: ClientState) -> list[int]:
    return [-1 if t.is_inference() else t._version for t in _tensors(state)]


def _tensors(state: ClientState) -> Iterator[Tensor]:
    yield from state.weights.values()
    yield from state.memory.values()


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether both are the same numbers in the same memory. Those made for inference do not tell who wrote into them."""
    return not x.is_inference() and (
        x is y or (x.data_ptr() == y.data_ptr() and x.shape == y.shape and x.stride() == y.stride() and x.dtype == y.dtype)
    )
