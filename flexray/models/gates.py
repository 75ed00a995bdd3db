"""Gates: how private experts are blended into what a block, or its routed experts, give.

Shape suffixes: K seats, G grafted experts, N flat tokens, D width, S the experts over which the router's softmax runs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flexray.models.family import Block
from flexray.state import State

Mode = Literal["add", "mix", "route", "open"]


def blend(
    mode: Mode, block: Block, gate: State, x_KND: Tensor, y_KND: Tensor, private_KGND: Tensor, logits_KNS: Tensor | None
) -> Tensor:
    """The output y with the private experts blended in; `gate` are this block's tensors, `logits` are for `route` alone."""
    if mode == "open":
        return y_KND + private_KGND.sum(1)
    scores_KNG = gate_scores(gate, x_KND)
    if mode == "add":
        return added(y_KND, scores_KNG, private_KGND)
    if mode == "mix":
        return mixed(y_KND, scores_KNG, private_KGND)
    assert logits_KNS is not None
    return routed(y_KND, logits_KNS, scores_KNG, private_KGND, block.scale)


def gate_scores(tensors: State, x_KND: Tensor) -> Tensor:
    """w·x + b of every grafted expert, [K, N, G]."""
    weight_KGD, bias_KG = (tensors[name].to(x_KND.dtype) for name in ("weight", "bias"))
    return torch.baddbmm(bias_KG.unsqueeze(1), x_KND, weight_KGD.mT)


def added(y_KND: Tensor, scores_KNG: Tensor, private_KGND: Tensor) -> Tensor:
    """y + Σ σ(score_g)·E_g."""
    return _plus(y_KND, scores_KNG.sigmoid(), private_KGND)


def mixed(y_KND: Tensor, scores_KNG: Tensor, private_KGND: Tensor) -> Tensor:
    """(1 − mean g)·y + mean(g·E_g), g = σ(score)."""
    gates_KNG = scores_KNG.sigmoid() / scores_KNG.shape[-1]
    return _plus(y_KND * (1 - gates_KNG.sum(-1, keepdim=True)), gates_KNG, private_KGND)


def routed(y_KND: Tensor, logits_KNS: Tensor, scores_KNG: Tensor, private_KGND: Tensor, scale: float) -> Tensor:
    """The grafted experts as more logits of the router's softmax over S: p_0·y + scale·Σ p_g·E_g.

    p = softmax([logsumexp(logits), scores]): p_0 is left to the pretrained experts, in their old proportions.
    """
    exact = torch.promote_types(torch.promote_types(logits_KNS.dtype, scores_KNG.dtype), torch.float32)
    rest_KN1 = logits_KNS.to(exact).logsumexp(-1, keepdim=True)
    shares_KNG = torch.cat([rest_KN1, scores_KNG.to(exact)], -1).softmax(-1).to(y_KND.dtype)
    return _plus(y_KND * shares_KNG[..., :1], shares_KNG[..., 1:], private_KGND, scale)


def _plus(y_KND: Tensor, shares_KNG: Tensor, private_KGND: Tensor, scale: float = 1.0) -> Tensor:
    for g in range(shares_KNG.shape[-1]):
        y_KND = torch.addcmul(y_KND, shares_KNG[..., g : g + 1], private_KGND[:, g], value=scale)
    return y_KND
