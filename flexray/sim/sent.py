"""What the server sent, as an actor hands it to its clients: unpacked once for all of them, guarded against writing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flexray.algorithm import Algorithm
from flexray.sim.wire import Wire
from flexray.state import State, Update, widen


class Sent:
    """Holds the last vector that came, in memory of its own: what the object store holds is everybody's."""

    def __init__(self, wire: Wire, algorithm: Algorithm, device: torch.device):
        self.wire, self.algorithm, self.device = wire, algorithm, device
        self._vector: np.ndarray | None = None
        self._staged: Tensor | None = None
        self._wide: dict[int, tuple[State, State]] = {}
        self._guarded: list[tuple[Tensor, int]] = []
        self.place = 0
        """Where the shared copy is: what is kept must not be a view of it."""

    def widened(self, vector: np.ndarray, group: Sequence[int]) -> Update:
        """What crosses to each of these clients, [K, …], on the device. It must not be written to; see `check`. Behind the tensors the
        vector may have what is no method's business."""
        vector = vector[: self.wire.numbers]
        masks = [self.wire.crossing(self.algorithm.cut(self.wire.payload, number)) for number in group]
        if any(mask is not None for mask in masks):
            own = self.wire.unpack(np.stack([vector if mask is None else np.where(mask, vector, 0) for mask in masks]))
            return Update(*({n: t.to(self.device) for n, t in s.items()} for s in (own.weights, own.aux)))
        if self._vector is None or _address(self._vector) != _address(vector):
            self._take(vector)
        if len(group) not in self._wide:
            self._wide[len(group)] = (widen(self._update.weights, len(group)), widen(self._update.aux, len(group)))
        return Update(*map(dict, self._wide[len(group)]))

    def check(self) -> None:
        """Raises if somebody wrote to what all clients of this process share."""
        if any(t._version != version for t, version in self._guarded):
            self.forget()
            raise RuntimeError("the method wrote to tensors that the server sent; let it make new ones")

    def forget(self) -> None:
        """The round is over: the vector may go."""
        self._vector, self._wide, self._guarded = None, {}, []

    def _take(self, vector: np.ndarray) -> None:
        self._vector = vector  # as long as it is held, nothing else can be at its address
        staged: Tensor = (
            torch.empty(len(vector), pin_memory=self.device.type == "cuda") if self._staged is None else self._staged
        )
        np.copyto(staged.numpy(), vector)
        self._staged, flat = staged, staged.to(self.device, non_blocking=True)
        self._update, self._wide, self.place = self.wire.views(flat), {}, flat.untyped_storage().data_ptr()
        self._guarded = [(t, t._version) for t in (flat, *self._update.weights.values(), *self._update.aux.values())]


def _address(vector: np.ndarray) -> int:
    return vector.__array_interface__["data"][0]
