"""Gates: how private experts are blended into what a block, or its routed experts, give.

Shape suffixes: K seats, G grafted experts, N flat tokens, D width, S the experts over which the router's softmax runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flexray.models.family import Block
from flexray.state import State

Mode = Literal["add", "mix", "route", "in_place", "open"]


@dataclass(frozen=True, eq=False)
class Weights:
    """A blend: kept·y + Σ_g own_g·E_g."""

    kept_KN1: Tensor | None
    """None for 1."""
    own_KNG: Tensor
    gate_KNG: Tensor
    """The gate's value itself, between 0 and 1: σ(score), or the softmax's share p_g."""


def blend(
    mode: Mode, block: Block, gate: State, x_KND: Tensor, y_KND: Tensor, private_KGND: Tensor, logits_KNS: Tensor | None
) -> Tensor:
    """The output y with the private experts blended in; `gate` are this block's tensors, `logits` are for `route` alone."""
    return blended(y_KND, weigh(mode, block, gate, x_KND, private_KGND.shape[1], logits_KNS), private_KGND)


def weigh(mode: Mode, block: Block, gate: State, x_KND: Tensor, experts: int, logits_KNS: Tensor | None) -> Weights:
    """What the gates of so many grafted experts make of these tokens. What is `in_place` has no gate (see `in_place.py`)."""
    assert mode != "in_place"
    if mode == "open":
        one_KNG = x_KND.new_ones(1, 1, 1).expand(*x_KND.shape[:2], experts)
        return Weights(None, one_KNG, one_KNG)
    scores_KNG = gate_scores(gate, x_KND)
    if mode == "route":
        assert logits_KNS is not None
        return routed(logits_KNS, scores_KNG, block.scale)
    return added(scores_KNG) if mode == "add" else mixed(scores_KNG)


def blended(y_KND: Tensor, weights: Weights, private_KGND: Tensor) -> Tensor:
    """kept·y + Σ_g own_g·E_g."""
    if weights.kept_KN1 is not None:
        y_KND = y_KND * weights.kept_KN1
    for g in range(private_KGND.shape[1]):
        y_KND = torch.addcmul(y_KND, weights.own_KNG[..., g : g + 1], private_KGND[:, g])
    return y_KND


def gate_scores(tensors: State, x_KND: Tensor) -> Tensor:
    """w·x + b of every grafted expert, [K, N, G]."""
    weight_KGD, bias_KG = (tensors[name].to(x_KND.dtype) for name in ("weight", "bias"))
    return torch.baddbmm(bias_KG.unsqueeze(1), x_KND, weight_KGD.mT)


def added(scores_KNG: Tensor) -> Weights:
    """y + Σ σ(score_g)·E_g."""
    gates_KNG = scores_KNG.sigmoid()
    return Weights(None, gates_KNG, gates_KNG)


def mixed(scores_KNG: Tensor) -> Weights:
    """(1 − mean g)·y + mean(g·E_g), g = σ(score)."""
    gates_KNG = scores_KNG.sigmoid()
    own_KNG = gates_KNG / gates_KNG.shape[-1]
    return Weights(1 - own_KNG.sum(-1, keepdim=True), own_KNG, gates_KNG)


def routed(logits_KNS: Tensor, scores_KNG: Tensor, scale: float) -> Weights:
    """The grafted experts as more logits of the router's softmax over S: p_0·y + scale·Σ p_g·E_g.

    p = softmax([logsumexp(logits), scores]): p_0 is left to the pretrained experts, in their old proportions.
    """
    exact = torch.promote_types(torch.promote_types(logits_KNS.dtype, scores_KNG.dtype), torch.float32)
    rest_KN1 = logits_KNS.to(exact).logsumexp(-1, keepdim=True)
    shares_KNG = torch.cat([rest_KN1, scores_KNG.to(exact)], -1).softmax(-1).to(scores_KNG.dtype)
    return Weights(shares_KNG[..., :1], scale * shares_KNG[..., 1:], shares_KNG[..., 1:])
