"""What crosses between a client and the server. The only place where an update becomes bytes: checked, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flexray.algorithm import Payload
from flexray.models.seats import is_trained
from flexray.state import Shapes, State, Update, part_of

BYTES = 4
"""Of one number: float32."""
CUTS = 64
"""What of a payload crosses is remembered for so many ranks."""


class LeakError(AssertionError):
    """A method tried to send something that is not on the list of what travels."""


class Place(NamedTuple):
    """Where a tensor is in the vector; trained: a number, not an index."""

    name: str
    aux: bool
    start: int
    stop: int
    shape: tuple[int, ...]
    trained: bool


@dataclass(frozen=True)
class Wire:
    """One direction: a payload's tensors in one flat float32 vector [P], first the weights, then `aux`."""

    payload: Payload

    @cached_property
    def numbers(self) -> int:
        """Length of the vector."""
        return sum(prod(shape) for shape in self._all.values())

    def bytes(self, cut: Payload | None = None) -> int:
        """What one update costs; `cut` is what of it crosses for a client of lower rank."""
        return sum(self.bytes_by_part(cut).values())

    def bytes_by_part(self, cut: Payload | None = None) -> dict[str, int]:
        """The same by role: the name of the part, or of the auxiliary state. One and the same dict for all who send everything."""
        return self._whole_cost if cut is None or cut is self.payload else _cost(cut)

    def pack(self, update: Update, seats: int, out: Tensor | None = None) -> np.ndarray:
        """[K, P] float32: one row per seat, in `out` where that is given. Raises LeakError for a name or shape that is not on the list."""
        _check("weights", update.weights, self.payload.weights)
        _check("aux", update.aux, self.payload.aux)
        # Numpy asks for huge pages where there are some, and has them several times as fast.
        into: Tensor = torch.from_numpy(np.empty((seats, self.numbers), np.float32)) if out is None else out
        every = [(update.aux if p.aux else update.weights)[p.name].reshape(seats, -1) for p in self.places]
        with torch.no_grad():
            if every and every[0].device.type == "cpu":
                torch.cat(every, 1, out=into)
            elif every:
                into.copy_(torch.cat([t.float() for t in every], 1))
        return into.numpy()

    def pack_one(self, update: Update) -> np.ndarray:
        """[P] float32: the server's own, which has no seat axis. Not to be written to: where `views` made the tensors, it is theirs."""
        if (whole := self._whole(update)) is not None:
            return whole.numpy()
        weights, aux = ({n: t[None] for n, t in s.items()} for s in (update.weights, update.aux))
        return self.pack(Update(weights, aux), 1)[0]

    def unpack(self, vector: np.ndarray) -> Update:
        """The tensors in a vector [..., P], as views of a private copy (writing to what the object store holds reaches everybody)."""
        return self.views(torch.from_numpy(np.array(vector, np.float32)))

    def views(self, flat: Tensor) -> Update:
        """The tensors in a vector [..., P]. Which expert a shared graft was cut from is an integer again, and no view."""
        states, lead = (State(), State()), flat.shape[:-1]
        for name, aux, start, stop, shape, trained in self.places:
            values = flat[..., start:stop].view((*lead, *shape))
            states[aux][name] = values if trained else values.round().long()
        return Update(*states)

    def crossing(self, cut: Payload) -> np.ndarray | None:
        """[P] which numbers cross for a client: True in the leading corner of each tensor; None where all do."""
        if cut is self.payload or cut == self.payload:
            return None
        key = (*cut.weights.items(), *cut.aux.items())
        if key not in self._masks:
            if len(self._masks) == CUTS:
                self._masks.clear()
            self._masks[key] = self._mask({**cut.weights, **cut.aux})
        return self._masks[key]

    def _whole(self, update: Update) -> Tensor | None:
        """The vector of which these tensors are the views, if they are."""
        every = {**update.weights, **update.aux}
        if every.keys() != self._all.keys() or not every:
            return None
        memory = every[self.places[0].name].untyped_storage()
        for p in self.places:
            t = every[p.name]
            there = t.untyped_storage().data_ptr() == memory.data_ptr() and t.storage_offset() == p.start and t.is_contiguous()
            if not (there and t.shape == p.shape and t.dtype == torch.float32 and t.device.type == "cpu"):
                return None
        return torch.empty(0).set_(memory, 0, (self.numbers,))  # pyright: ignore[reportCallIssue]

    def _mask(self, small: Shapes) -> np.ndarray:
        mask = np.zeros(self.numbers, bool)
        for place in self.places:
            mask[place.start : place.stop].reshape(place.shape)[tuple(slice(0, n) for n in small[place.name])] = True
        return mask

    @cached_property
    def _all(self) -> Shapes:
        assert not self.payload.weights.keys() & self.payload.aux.keys(), "a name is among the weights and in aux"
        return {**self.payload.weights, **self.payload.aux}

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where each tensor is, in their order."""
        ends = np.cumsum([0, *map(prod, self._all.values())]).tolist()
        return tuple(
            Place(name, name in self.payload.aux, start, stop, tuple(shape), is_trained(name))
            for (name, shape), start, stop in zip(self._all.items(), ends, ends[1:], strict=False)
        )

    @cached_property
    def _whole_cost(self) -> dict[str, int]:
        return _cost(self.payload)

    @cached_property
    def _masks(self) -> dict[tuple[tuple[str, tuple[int, ...]], ...], np.ndarray]:
        return {}


def _cost(payload: Payload) -> dict[str, int]:
    counted = Counter[str]()
    for name, shape in {**payload.weights, **payload.aux}.items():
        counted[part_of(name)] += BYTES * prod(shape)
    return dict(counted)


def _check(what: str, sent: State, listed: Mapping[str, tuple[int, ...]]) -> None:
    if sent.keys() != listed.keys():
        extra = sorted({*sent} - {*listed}) or sorted({*listed} - {*sent})
        raise LeakError(f"only what the method declares may leave a client, all of it; in {what} not so: {', '.join(extra)}")
    for name, shape in listed.items():
        if sent[name].shape[1:] != shape:
            raise LeakError(f"{name}: {tuple(shape)} may leave a client, not {tuple(sent[name].shape[1:])}")


def add_weighted(total: np.ndarray, vectors: np.ndarray, weights: Sequence[float], first: bool = False) -> np.ndarray:
    """total + Σ_k weights_k · vectors_k, in place and seat by seat in order: [K, P] into [P]. first: over what total held."""
    into = torch.from_numpy(total)
    for vector, weight in zip(torch.from_numpy(vectors), weights, strict=True):
        if first:
            torch.mul(vector, weight, out=into)
        else:
            into.add_(vector, alpha=weight)
        first = False
    return total
