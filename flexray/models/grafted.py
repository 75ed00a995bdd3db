"""The forward of single experts, pretrained or grafted, in the family's own layout.

Shape suffixes: K seats, G grafted experts, N flat tokens, D width, I expert width, R rank; H is what goes into the
activation: 2I with a gate projection (concatenated or interleaved), I without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flexray.models.family import Block
from flexray.parts import Graft
from flexray.state import State


def entry(experts: Any) -> str:
    """The name of an expert's first projection: gate and up fused, or up alone."""
    return "gate_up" if experts.has_gate else "up"


def stored(experts: Any) -> dict[str, Tensor]:
    """The family's own tensors of all its experts, [E, …], under the names a copied expert gives them."""
    names = (entry(experts), "down")
    weights = {name: getattr(experts, f"{name}_proj") for name in names}
    return weights | ({f"{name}_bias": getattr(experts, f"{name}_proj_bias") for name in names} if experts.has_bias else {})


def expert(block: Block, i: int, x_ND: Tensor) -> Tensor:
    """Pretrained expert i alone, unweighted: [N, D] to [N, D]."""
    e = block.experts
    own = {name: t[i] for name, t in stored(e).items()}
    hidden_NI = activated(e, _linear(e, x_ND, own[entry(e)], own.get(f"{entry(e)}_bias")))
    return normed(e, _linear(e, hidden_NI, own["down"], own.get("down_bias")))


def grafted(block: Block, tensors: State, x_KND: Tensor, graft: Graft) -> Tensor:
    """What every seat's own experts make of its tokens, [K, G, N, D].

    `tensors` are the block's, [K, G, …], by their last name: a trained copy, or adapters over the frozen expert `index`.
    """
    own = {name: t.to(x_KND.dtype) for name, t in tensors.items() if name != "index"}
    if graft.train == "full":
        return _copied(block.experts, own, x_KND)
    return _alias(block.experts, own, tensors["index"].tolist(), x_KND, graft)


def _copied(e: Any, own: State, x_KND: Tensor) -> Tensor:
    def project(name: str, x: Tensor) -> Tensor:
        bias = own.get(f"{name}_bias")
        return _linear(e, x, own[name], None if bias is None else bias.unsqueeze(-2))

    return normed(e, project("down", activated(e, project(entry(e), x_KND.unsqueeze(1)))))


def _alias(e: Any, own: State, index_KG: list[list[int]], x_KND: Tensor, graft: Graft) -> Tensor:
    """The frozen experts, used in place, with adapters; the identity start serves E+LoRA − E."""
    scale, x_KGND = graft.alpha / graft.rank, x_KND.unsqueeze(1).expand(-1, len(index_KG[0]), -1, -1)
    base_KGNH = _frozen(e, entry(e), index_KG, x_KGND)
    hidden_KGNI = activated(e, base_KGNH + scale * fused(e, partial(_low, own), x_KGND))
    change_KGND = scale * _low(own, "down", hidden_KGNI)
    if graft.start == "copy":
        return normed(e, _frozen(e, "down", index_KG, hidden_KGNI) + change_KGND)
    bare_KGNI = activated(e, base_KGNH)
    if not _has_norm(e):  # down is linear: one product for both terms, its bias cancels, exactly 0 at B = 0
        return _frozen(e, "down", index_KG, hidden_KGNI - bare_KGNI, bias=False) + change_KGND
    bare_KGND = _frozen(e, "down", index_KG, bare_KGNI)
    return normed(e, _frozen(e, "down", index_KG, hidden_KGNI) + change_KGND) - normed(e, bare_KGND)


def _frozen(e: Any, name: str, index_KG: list[list[int]], x_KGNX: Tensor, bias: bool = True) -> Tensor:
    """A projection of every seat's chosen pretrained experts; a loop, since a bmm would copy their weights."""
    of = stored(e)
    biases = of.get(f"{name}_bias") if bias else None
    outs = [
        _linear(e, x_KGNX[k, g], of[name][i], None if biases is None else biases[i])
        for k, row in enumerate(index_KG)
        for g, i in enumerate(row)
    ]
    if len(outs) == 1:
        return outs[0][None, None]
    return torch.stack(outs).unflatten(0, (len(index_KG), -1))


def low_rank_shapes(block: Block, experts: int, rank: int) -> dict[str, tuple[int, ...]]:
    """Last name to shape of low-rank adapters on the projections of so many experts."""
    n, D, I = experts, block.width, block.expert_width  # noqa: E741
    inward = ("gate", "up") if entry(block.experts) == "gate_up" else ("up",)
    shapes = {f"{name}_{side}": (n, rank, D) if side == "a" else (n, I, rank) for name in inward for side in "ab"}
    return shapes | {"down_a": (n, rank, I), "down_b": (n, D, rank)}


def fused(e: Any, low: Callable[[str, Tensor], Tensor], x: Tensor) -> Tensor:
    """What adapters add before the activation, [..., H], in the order in which the family fuses gate and up.

    `low(name, x)` is what those of one projection make of x.
    """
    if not e.has_gate:
        return low("up", x)
    both = low("gate", x), low("up", x)
    return torch.cat(both, -1) if e.is_concatenated else torch.stack(both, -1).flatten(-2)


def _low(own: State, name: str, x_KGNX: Tensor) -> Tensor:
    return torch.matmul(torch.matmul(x_KGNX, own[f"{name}_a"].mT), own[f"{name}_b"].mT)


def _linear(e: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.matmul(x, weight if e.is_transposed else weight.mT)
    return out if bias is None else out + bias


def activated(e: Any, h: Tensor) -> Tensor:
    """What goes into the down projection, [..., I], of what the first one gives, [..., H]."""
    # The modules' own code is written for flat tokens.
    flat_NH = h.flatten(0, -2)
    return (e._apply_gate(flat_NH) if e.has_gate else e.act_fn(flat_NH)).unflatten(0, h.shape[:-1])


def normed(e: Any, y: Tensor) -> Tensor:
    """The family's norm of an expert's output, if it has one."""
    return e.post_expert_norm(y) if _has_norm(e) else y


def _has_norm(e: Any) -> bool:
    return getattr(e, "has_post_expert_norm", False)
