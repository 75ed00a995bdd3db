"""What lies between an expert's two projections, and its gradient without a graph.

Shape suffixes: R rows, I expert width, H width of what goes in (2I with a gate).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Gating(Protocol):
    def forward(self, h_RH: Tensor, /) -> Tensor:
        """[R, I]."""
        ...

    def backward(self, h_RH: Tensor, grad_RI: Tensor, score_R: Tensor, also: bool) -> tuple[Tensor, Tensor | None]:
        """The gradient of h, and `forward(h)` if that is wanted too; `score` gets each row's product of it and its gradient."""
        ...


class SiluGate:
    """SiLU of the first half times the second."""

    def forward(self, h_RH: Tensor) -> Tensor:
        gate_RI, up_RI = h_RH.chunk(2, -1)
        return F.silu(gate_RI).mul_(up_RI)

    def backward(self, h_RH: Tensor, grad_RI: Tensor, score_R: Tensor, also: bool) -> tuple[Tensor, Tensor | None]:
        gate_RI, up_RI = h_RH.chunk(2, -1)
        silu_RI, scaled_RI, grad_RH = F.silu(gate_RI), grad_RI * up_RI, torch.empty_like(h_RH)
        grad_gate_RI, grad_up_RI = grad_RH.chunk(2, -1)
        torch.sum(scaled_RI * silu_RI, -1, dtype=score_R.dtype, out=score_R)
        torch.mul(grad_RI, silu_RI, out=grad_up_RI)
        torch.ops.aten.silu_backward.grad_input(scaled_RI, gate_RI, grad_input=grad_gate_RI)
        return grad_RH, silu_RI.mul_(up_RI) if also else None


@dataclass(frozen=True)
class ByAutograd:
    """Any other."""

    forward: Callable[[Tensor], Tensor]

    def backward(self, h_RH: Tensor, grad_RI: Tensor, score_R: Tensor, also: bool) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():
            leaf_RH = h_RH.detach().requires_grad_()
            h_RI = self.forward(leaf_RH)
        (grad_RH,) = torch.autograd.grad(h_RI, leaf_RH, grad_RI)
        torch.sum(grad_RI * h_RI.detach(), -1, dtype=score_R.dtype, out=score_R)
        return grad_RH, h_RI.detach() if also else None
