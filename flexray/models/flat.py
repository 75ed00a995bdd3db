"""The storage of trained tensors: views of one buffer per part, so that an optimizer's step is one operation.

Shape suffixes: K seats, P trained numbers of a part.
"""

from __future__ import annotations

import warnings
from functools import cache
from math import prod

import torch

from flexray.state import Shapes, State


class Flat:
    """One part's trained tensors: leaves that are views of one buffer [K, P], their gradients views of another."""

    def __init__(self, shapes: Shapes, seats: int, dtype: torch.dtype, device: torch.device):
        _hush()
        self.weights = torch.zeros(seats, sum(map(prod, shapes.values())), dtype=dtype, device=device)
        self.grads = torch.zeros_like(self.weights)
        self.tensors: State = {}
        start = 0
        for name, shape in shapes.items():
            piece = slice(start, start := start + prod(shape))
            self.tensors[name] = self.weights[:, piece].view(seats, *shape).detach()
            self.tensors[name].grad = self.grads[:, piece].view(seats, *shape)


@cache
def _hush() -> None:
    """Draw torch's one warning per process about gradients that have gaps between rows: here they are rows of [K, P]."""
    row = torch.zeros(2, 2)[:, :1].requires_grad_()
    row.grad = torch.zeros(2, 2)[:, :1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row.sum().backward()
