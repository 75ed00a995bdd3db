"""Grafted experts written out as whole experts in the family's own layout, whatever they were trained as.

Shape suffixes: G grafted experts, D width, I expert width, H what goes into the activation, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexray.errors import ConfigError
from flexray.models.family import Block
from flexray.models.grafted import entry, stored
from flexray.parts import Graft
from flexray.state import State


def private(block: Block, own: State, graft: Graft) -> State:
    """Experts to be added as they are, by their names in `grafted`.

    Adapters that serve E+LoRA − E become one expert of twice the width: an expert is a sum over its width, so the sum over both,
    with −down for the second, is the difference; biases of down cancel.
    """
    if graft.train == "full" or graft.start == "copy":
        return copies(block, own, graft)
    if getattr(block.experts, "has_post_expert_norm", False):
        raise ConfigError(
            "algorithm.graft.start: expected copy to export adapters over an expert whose output is normed, got 'identity'; "
            "use `flexray generate`"
        )
    tuned, bare = copies(block, own, graft), _frozen(block, own)
    both, e = {}, block.experts
    for name, t in tuned.items():
        if name == "down":
            both[name] = torch.cat([t, -bare[name]], -2 if e.is_transposed else -1)
        elif name == "down_bias":
            both[name] = torch.zeros_like(t)
        else:
            both[name] = _wider(e, t, bare[name], -1 if name.endswith("bias") or e.is_transposed else -2)
    return both


def copies(block: Block, own: State, graft: Graft) -> State:
    """Whole experts [G, …]: the trained copies, or the frozen ones with their adapters merged in."""
    if graft.train == "full":
        return {name: t for name, t in own.items() if name != "index"}
    change = changes(block.experts, own, graft.alpha / graft.rank)
    return {name: t + change.get(name, 0) for name, t in _frozen(block, own).items()}


def changes(e: Any, own: State, scale: float) -> State:
    """scale·B·A of adapters on experts' projections, by the projection, in the layout in which the family fuses and stores them."""

    def product(name: str) -> Tensor:
        return scale * (own[f"{name}_b"].double() @ own[f"{name}_a"].double())

    if not e.has_gate:
        first = product("up")
    elif e.is_concatenated:
        first = torch.cat([product("gate"), product("up")], -2)
    else:
        first = torch.stack([product("gate"), product("up")], -2).flatten(-3, -2)
    found = {entry(e): first, "down": product("down")}
    return {name: t.mT if e.is_transposed else t for name, t in found.items()}


def _frozen(block: Block, own: State) -> State:
    """The pretrained experts that these were cut from."""
    return {name: t[own["index"].to(t.device)].detach().cpu().double() for name, t in stored(block.experts).items()}


def _wider(e: Any, one: Tensor, two: Tensor, along: int) -> Tensor:
    """Both side by side in H; where the gate's half comes first, half by half."""
    if not (e.has_gate and e.is_concatenated):
        return torch.cat([one, two], along)
    halves = [(a, b) for a, b in zip(one.chunk(2, along), two.chunk(2, along), strict=True)]
    return torch.cat([t for pair in halves for t in pair], along)
