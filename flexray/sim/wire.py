"""What crosses between a client and the server. The only place where an update becomes bytes: checked, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch

from flexray.algorithm import Payload
from flexray.models.seats import is_trained
from flexray.state import Shapes, State, Update, part_of

BYTES = 4
"""Of one number: float32."""


class LeakError(AssertionError):
    """A method tried to send something that is not on the list of what travels."""


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
        """The same by role: the name of the part, or of the auxiliary state."""
        cut, counted = cut or self.payload, Counter[str]()
        for name, shape in {**cut.weights, **cut.aux}.items():
            counted[part_of(name)] += BYTES * prod(shape)
        return dict(counted)

    def pack(self, update: Update, seats: int) -> np.ndarray:
        """[K, P] float32: one row per seat. Raises LeakError for a name or shape that is not on the list."""
        for what, sent, listed in (
            ("weights", update.weights, self.payload.weights),
            ("aux", update.aux, self.payload.aux),
        ):
            _check(what, sent, listed)
        if not self._all:
            return np.zeros((seats, 0), np.float32)
        every = [*(update.weights[n] for n in self.payload.weights), *(update.aux[n] for n in self.payload.aux)]
        return torch.cat([t.detach().reshape(seats, -1).float().cpu() for t in every], 1).numpy()

    def pack_one(self, update: Update) -> np.ndarray:
        """[P] float32: the server's own, which has no seat axis."""
        weights, aux = ({n: t[None] for n, t in s.items()} for s in (update.weights, update.aux))
        return self.pack(Update(weights, aux), 1)[0]

    def unpack(self, vector: np.ndarray) -> Update:
        """The tensors in a vector [..., P], as views of a private copy (writing to what the object store holds reaches
        everybody). Which expert a shared graft was cut from is an integer again."""
        flat, at = torch.from_numpy(np.array(vector, np.float32)), 0
        states = State(), State()
        for state, shapes in zip(states, (self.payload.weights, self.payload.aux), strict=True):
            for name, shape in shapes.items():
                values = flat[..., at : at + prod(shape)].reshape((*flat.shape[:-1], *shape))
                state[name] = values if is_trained(name) else values.round().long()
                at += prod(shape)
        return Update(*states)

    def crossing(self, cut: Payload) -> np.ndarray | None:
        """[P] which numbers cross for a client: True in the leading corner of each tensor; None where all do."""
        if cut == self.payload:
            return None
        small, masks = {**cut.weights, **cut.aux}, []
        for name, shape in self._all.items():
            mask = np.zeros(shape, bool)
            mask[tuple(slice(0, n) for n in small[name])] = True
            masks.append(mask.ravel())
        return np.concatenate(masks)

    @cached_property
    def _all(self) -> Shapes:
        assert not self.payload.weights.keys() & self.payload.aux.keys(), "a name is among the weights and in aux"
        return {**self.payload.weights, **self.payload.aux}


def _check(what: str, sent: State, listed: Mapping[str, tuple[int, ...]]) -> None:
    if sent.keys() != listed.keys():
        extra = sorted({*sent} - {*listed}) or sorted({*listed} - {*sent})
        raise LeakError(f"only what the method declares may leave a client, all of it; in {what} not so: {', '.join(extra)}")
    for name, shape in listed.items():
        if tuple(sent[name].shape[1:]) != tuple(shape):
            raise LeakError(f"{name}: {tuple(shape)} may leave a client, not {tuple(sent[name].shape[1:])}")


def add_weighted(total: np.ndarray, vectors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """total + Σ_k weights_k · vectors_k, in place and seat by seat in order: [K, P] into [P]."""
    for vector, weight in zip(vectors, weights, strict=True):
        total += np.float32(weight) * vector
    return total
