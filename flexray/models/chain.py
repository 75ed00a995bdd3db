"""Experts step by step, for what `fused.py` does not know: norms of outputs, trained biases, adapters in between.

Every step keeps its inputs for backward. Where there is little to do, torch's own steps are quicker than steps in Python.
Shape suffixes as in `rows.py`; G matrices, X and Y widths of a product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexray.models.products import Groups, outers, product
from flexray.models.rows import Rows


def gathered(x_ND: Tensor, rows: Rows) -> Tensor:
    """Each row's token, [R, D]."""
    if rows.small:
        return x_ND.index_select(0, rows.token_R)
    return _Gather.apply(x_ND, rows)


def multiplied(x_RX: Tensor, weight: Tensor, transposed: bool, groups: tuple[Groups, ...]) -> Tensor:
    """Each row times its group's matrix, stored as [G, X, Y] if transposed, else as [G, Y, X]."""
    if len(groups) == 1 and groups[0].kernel != "loop" and x_RX.device.type == "cpu":
        return product(x_RX, weight if transposed else weight.mT, groups[0])
    return _Multiply.apply(x_RX, weight, transposed, groups)


def combined(y_RD: Tensor, weight_Nk: Tensor, rows: Rows) -> Tensor:
    """The weighted sum over each token's rows, [N, D]."""
    if rows.small and weight_Nk.dtype == y_RD.dtype:
        return rows.combined(_with_zeros(y_RD, rows), weight_Nk)
    return _Combine.apply(y_RD, weight_Nk, rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND, rows: Rows):
        ctx.rows = rows
        return x_ND.index_select(0, rows.token_R)

    @staticmethod
    def backward(ctx: Any, grad_RD):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.rows.combined(_with_zeros(grad_RD, ctx.rows)), None


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RX, weight, transposed: bool, groups):
        ctx.transposed, ctx.groups = transposed, groups
        ctx.save_for_backward(x_RX if weight.requires_grad else None, weight)
        return _products(x_RX, weight if transposed else weight.mT, groups)

    @staticmethod
    def backward(ctx: Any, grad_RY):  # pyright: ignore[reportIncompatibleMethodOverride]
        x_RX, weight = ctx.saved_tensors
        grad_RY, grad_x, grad_weight = grad_RY.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _products(grad_RY, weight.mT if ctx.transposed else weight, ctx.groups)
        if ctx.needs_input_grad[1]:
            pairs = [(x_RX[g.start : g.stop], grad_RY[g.start : g.stop]) for g in ctx.groups]
            grad_weight = outers((p if ctx.transposed else p[::-1] for p in pairs), ctx.groups, weight)
        return grad_x, grad_weight, None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_RD, weight_Nk, rows: Rows):
        ctx.rows = rows
        ctx.save_for_backward(y_RD, weight_Nk)
        return rows.combined(_with_zeros(y_RD, rows), weight_Nk)

    @staticmethod
    def backward(ctx: Any, grad_ND):  # pyright: ignore[reportIncompatibleMethodOverride]
        y_RD, weight_Nk = ctx.saved_tensors
        grad_RD = grad_ND.index_select(0, ctx.rows.token_R)
        score_R = weight_Nk.new_zeros(len(y_RD) + 1)
        torch.sum(grad_RD * y_RD, -1, dtype=score_R.dtype, out=score_R[:-1])
        return grad_RD * ctx.rows.weights(weight_Nk).to(grad_RD.dtype), ctx.rows.pairs(score_R), None


def _products(x_RX: Tensor, weight_GXY: Tensor, all_groups: tuple[Groups, ...]) -> Tensor:
    if len(all_groups) == 1 and all_groups[0].stop == len(x_RX):
        return product(x_RX, weight_GXY, all_groups[0])
    out_RY = x_RX.new_empty(len(x_RX), weight_GXY.shape[2])
    for groups in all_groups:
        product(x_RX[groups.start : groups.stop], weight_GXY, groups, out_RY[groups.start : groups.stop])
    return out_RY


def _with_zeros(y_RD: Tensor, rows: Rows) -> Tensor:
    """One more row for pairs that have none."""
    return y_RD if rows.whole else torch.cat([y_RD, y_RD.new_zeros(1, y_RD.shape[1])])
