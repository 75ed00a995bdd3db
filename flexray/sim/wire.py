"""What leaves a client. The only place where an update becomes bytes: checked against an allow-list, and counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from flexray.state import State, Update


class LeakError(AssertionError):
    """A method tried to send something that is not on the list of what travels."""


@dataclass(frozen=True)
class Wire:
    """The layout of what travels: per-client shapes of the shared weights, in one flat float32 vector."""

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def numbers(self) -> int:
        """Length of the vector."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def bytes(self) -> int:
        """What one update costs, one way."""
        return 4 * self.numbers

    def pack(self, update: Update, seats: int) -> np.ndarray:
        """[K, P] float32: one row per seat. Raises LeakError for a name or shape that is not on the list."""
        weights = update.weights
        if update.aux or weights.keys() != self.shapes.keys():
            extra = sorted({*update.aux, *weights} - {*self.shapes}) or sorted({*self.shapes} - {*weights})
            raise LeakError(f"only the shared parameters may leave a client, all of them; not as listed: {', '.join(extra)}")
        for name, shape in self.shapes.items():
            if tuple(weights[name].shape[1:]) != tuple(shape):
                raise LeakError(f"{name}: {tuple(shape)} may leave a client, not {tuple(weights[name].shape[1:])}")
        if not self.shapes:
            return np.zeros((seats, 0), np.float32)
        flat = [weights[name].detach().flatten(1).float().cpu() for name in self.shapes]
        return torch.cat(flat, 1).numpy()

    def pack_one(self, update: Update) -> np.ndarray:
        """[P] float32: the server's own, which has no seat axis."""
        return self.pack(Update({n: t[None] for n, t in update.weights.items()}, update.aux), 1)[0]

    def unpack(self, vector: np.ndarray) -> Update:
        """The weights in a vector [P], as views of a private copy (writing to what the object store holds reaches everybody)."""
        flat, state, at = torch.from_numpy(np.array(vector, np.float32)), State(), 0
        for name, shape in self.shapes.items():
            state[name] = flat[at : at + prod(shape)].view(shape)
            at += prod(shape)
        return Update(state)


def add_weighted(total: np.ndarray, vectors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """total + Σ_k weights_k · vectors_k, in place and seat by seat in order: [K, P] into [P]."""
    for vector, weight in zip(vectors, weights, strict=True):
        total += np.float32(weight) * vector
    return total
