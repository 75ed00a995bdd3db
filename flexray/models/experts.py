"""The forward of frozen experts, for every layout of transformers' experts interface.

Tokens are sorted by expert once, each expert multiplies its own run of rows, and the gate is one operation over all of
them. No gradient is computed for weights, and each sum has a fixed order.
Shape suffixes: D width, E experts, N flat tokens, k experts per token, S = N·k sorted rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "flexray"
"""The name under which transformers knows this forward."""

Runs = tuple[tuple[int, int, int], ...]
"""(expert, first row, last row + 1) of each expert that has rows."""


def register() -> None:
    """Makes the forward known to transformers' experts interface."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)


def experts_forward(self: Any, hidden_ND: Tensor, index_Nk: Tensor, weight_Nk: Tensor) -> Tensor:
    """The weighted sum over each token's experts, [N, D]; an index from E on stands for no expert."""
    N, k = index_Nk.shape
    expert_S, order_S = index_Nk.flatten().sort(stable=True)
    inverse_S = torch.empty_like(order_S)
    inverse_S[order_S] = torch.arange(N * k, device=order_S.device)
    runs = _runs(expert_S, len(self.down_proj))
    x_SD = _Spread.apply(hidden_ND, order_S, inverse_S, k)
    y_SD = _all_experts(self, x_SD, runs)
    y_NkD = _Reorder.apply(y_SD, inverse_S, order_S).view(N, k, y_SD.shape[1])
    return (y_NkD * weight_Nk[..., None]).sum(1).to(hidden_ND.dtype)


def _all_experts(self: Any, x_SD: Tensor, runs: Runs) -> Tensor:
    """Each expert over its own rows, [S, D]."""
    name = "gate_up_proj" if self.has_gate else "up_proj"
    inner = _linear(self, name, x_SD, runs)
    out_SD = _linear(self, "down_proj", self._apply_gate(inner) if self.has_gate else self.act_fn(inner), runs)
    return self.post_expert_norm(out_SD) if getattr(self, "has_post_expert_norm", False) else out_SD


def _linear(self: Any, name: str, x: Tensor, runs: Runs) -> Tensor:
    weight = getattr(self, name)
    bias = getattr(self, f"{name}_bias") if self.has_bias else None
    assert not weight.requires_grad, "this forward is for frozen experts: it computes no gradient of their weights"
    return _Linear.apply(x, weight if self.is_transposed else weight.transpose(1, 2), bias, runs)


def _runs(expert_S: Tensor, E: int) -> Runs:
    ends = torch.bincount(expert_S, minlength=E)[:E].cumsum(0).tolist()
    return tuple((e, start, end) for e, (start, end) in enumerate(zip([0, *ends], ends, strict=False)) if end > start)


class _Linear(torch.autograd.Function):
    """x @ weight[e] + bias[e] for each run of rows, with a gradient for x alone; rows of no run are zero."""

    @staticmethod
    def forward(ctx, x, weight, bias, runs):
        ctx.save_for_backward(weight)
        ctx.runs = runs
        out = _empty(x, weight.shape[2], runs)
        for e, start, end in runs:
            if bias is None:
                torch.mm(x[start:end], weight[e], out=out[start:end])
            else:
                torch.addmm(bias[e], x[start:end], weight[e], out=out[start:end])
        return out

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        grad_x = _empty(grad, weight.shape[1], ctx.runs)
        for e, start, end in ctx.runs:
            torch.mm(grad[start:end], weight[e].t(), out=grad_x[start:end])
        return grad_x, None, None, None


class _Spread(torch.autograd.Function):
    """Every token's row, once for each of its experts, in sorted order. The gradient sums in the order of the experts."""

    @staticmethod
    def forward(ctx, x_ND, order_S, inverse_S, k):
        ctx.save_for_backward(inverse_S)
        ctx.k = k
        return x_ND.index_select(0, order_S // k)

    @staticmethod
    def backward(ctx, grad_SD):  # pyright: ignore[reportIncompatibleMethodOverride]
        (inverse_S,) = ctx.saved_tensors
        return grad_SD.index_select(0, inverse_S).unflatten(0, (len(inverse_S) // ctx.k, ctx.k)).sum(1), None, None, None


class _Reorder(torch.autograd.Function):
    """Rows in another order; the gradient goes back by the inverse order, without adding anything up."""

    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


def _empty(x: Tensor, width: int, runs: Runs) -> Tensor:
    """Room for one row per row of x; zero from the last run on."""
    out = x.new_empty(len(x), width)
    out[runs[-1][2] if runs else 0 :] = 0
    return out
