"""Experts as one step of autograd: gather, first products, activation, second products, weighted sum.

For backward it keeps what the first products gave, [R, H], or with `recompute` nothing but the tokens; frozen weights cost nothing.
Gradients meet routing weights late. With t = W₂·g of a row, the routing weight's own gradient is t·h, narrower than g·y and
without y; and all that follows t is linear in the routing weight, which so waits for the sum over each token's rows.
Shape suffixes as in `rows.py`; I expert width, H width of what goes into the activation (2I with a gate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flexray.models.gating import Gating
from flexray.models.products import Groups, outer, product, without_idle
from flexray.models.rows import Rows


@dataclass(frozen=True, eq=False)
class Work:
    """What to do with which rows. transposed: the matrices are stored as [E, from, to]."""

    rows: Rows
    transposed: bool
    gating: Gating
    recompute: bool


@dataclass(frozen=True, eq=False)
class Weights:
    """The matrices [E, from, to], and their biases."""

    into_EDH: Tensor
    down_EID: Tensor
    into_EH: Tensor | None
    down_ED: Tensor | None


def fused(work: Work, x_ND: Tensor, weight_Nk: Tensor, into: Tensor, down: Tensor, *biases: Tensor | None) -> Tensor:
    """[N, D], with gradients for tokens, routing weights and matrices (as they are stored), none for biases."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x_ND, weight_Nk, into, down))
    if wanted:
        return _Fused.apply(work, x_ND, weight_Nk, into, down, *biases)
    return work.rows.combined(_through(work, x_ND, _weights(work, into, down, *biases)), weight_Nk)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Work, x_ND, weight_Nk, into, down, *biases):
        kept: list[Tensor] = []
        y_RD = _through(work, x_ND, _weights(work, into, down, *biases), None if work.recompute else kept)
        ctx.work = work
        ctx.save_for_backward(x_ND if work.recompute or into.requires_grad else None, weight_Nk, into, down, *biases, *kept)
        return work.rows.combined(y_RD, weight_Nk)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND):  # pyright: ignore[reportIncompatibleMethodOverride]
        x_ND, weight_Nk, into, down, into_bias, down_bias, *kept = ctx.saved_tensors
        back = _Back(ctx, x_ND, weight_Nk, (into, down), (into_bias, down_bias), iter(kept), grad_ND.contiguous())
        return None, *back.run(), None, None


def _weights(work: Work, into: Tensor, down: Tensor, *biases: Tensor | None) -> Weights:
    return Weights(*((into, down) if work.transposed else (into.mT, down.mT)), *biases)


def _through(work: Work, x_ND: Tensor, weights: Weights, kept: list[Tensor] | None = None) -> Tensor:
    """Every row through its expert, [R, D]; `kept` gets what goes into the activation."""

    def piece(groups: Groups, out: Tensor | None) -> Tensor:
        h_RH = _first(work, x_ND.index_select(0, _of(groups, work.rows.token_R)), weights, groups)
        if kept is not None:
            kept.append(h_RH)
        return _biased(product(work.gating.forward(h_RH), weights.down_EID, groups, out), weights.down_ED, work, groups)

    return work.rows.each(x_ND, piece)


def _first(work: Work, x_RD: Tensor, weights: Weights, groups: Groups) -> Tensor:
    return _biased(product(x_RD, weights.into_EDH, groups), weights.into_EH, work, groups)


def _biased(y_RY: Tensor, bias_EY: Tensor | None, work: Work, groups: Groups) -> Tensor:
    return y_RY if bias_EY is None else y_RY.add_(bias_EY.index_select(0, _of(groups, work.rows.expert_R)))


def _of(groups: Groups, rows: Tensor) -> Tensor:
    return rows[groups.start : groups.stop]


class _Back:
    """One backward, group by group."""

    def __init__(self, ctx: Any, x_ND, weight_Nk, matrices, biases, kept, grad_ND):
        self.work: Work = ctx.work
        self.weights = _weights(self.work, *matrices, *biases)
        self.x_ND, self.weight_Nk, self.matrices, self.kept, self.grad_ND = x_ND, weight_Nk, matrices, kept, grad_ND
        _, self.to_x, _, *self.trained, _, _ = ctx.needs_input_grad
        self.sums: list[Tensor | None] = [None, None]
        self.weight_R = self.work.rows.weights(weight_Nk).to(grad_ND.dtype) if any(self.trained) else None
        self.score_R = weight_Nk.new_zeros(len(self.work.rows.pair_R) + 1)

    def run(self) -> tuple[Tensor | None, ...]:
        """The gradients of tokens, routing weights and the two matrices."""
        rows, grad_x_ND = self.work.rows, None
        if self.to_x:
            into_EHD = self.weights.into_EDH.mT
            out_RD = rows.each(self.grad_ND, lambda groups, out: product(self._piece(groups), into_EHD, groups, out))
            grad_x_ND = rows.combined(out_RD, self.weight_Nk if self.weight_R is None else None)
        else:
            for groups in rows.groups:
                self._piece(groups)
        triples = zip(self.sums, self.matrices, self.trained, strict=True)
        sums = (without_idle(total, rows.groups, like) if wanted else None for total, like, wanted in triples)
        return grad_x_ND, rows.pairs(self.score_R), *sums

    def _piece(self, groups: Groups) -> Tensor:
        """The gradient of what goes into the activation, [R, H]; before the routing weights, unless matrices are trained."""
        work, token_R = self.work, _of(groups, self.work.rows.token_R)
        grad_RD = self.grad_ND.index_select(0, token_R)
        x_RD: Any = None if self.x_ND is None else self.x_ND.index_select(0, token_R)
        h_RH = next(self.kept, None)
        if h_RH is None:
            h_RH = _first(work, x_RD, self.weights, groups)
        t_RI = product(grad_RD, self.weights.down_EID.mT, groups)
        grad_RH, h_RI = work.gating.backward(h_RH, t_RI, _of(groups, self.score_R), self.trained[1])
        if self.weights.down_ED is not None:
            bias_RD = self.weights.down_ED.index_select(0, _of(groups, work.rows.expert_R))
            _of(groups, self.score_R).add_((grad_RD * bias_RD).sum(-1))
        if self.weight_R is not None:
            grad_RH = grad_RH.mul_(_of(groups, self.weight_R))
            self._add(0, x_RD, grad_RH, groups)
            if h_RI is not None:
                self._add(1, h_RI * _of(groups, self.weight_R), grad_RD, groups)
        return grad_RH

    def _add(self, which: int, x: Tensor, y: Tensor, groups: Groups) -> None:
        if self.trained[which]:
            one, two = (x, y) if self.work.transposed else (y, x)
            self.sums[which] = outer(one, two, groups, self.sums[which], self.matrices[which])
