"""What methods cost, by counting: FLOPs per token of what is frozen and of what is added, and numbers that would have to travel.

A multiplication with its addition is 2 FLOPs. Counted are products with weights: every linear layer (the head too), the router,
and the k experts that a token gets. Not counted are norms, activations, the lookup of embeddings, and attention's products of
queries, keys and values, which grow with the context (some 1 % at 512 tokens in Qwen1.5-MoE-A2.7B). A skeleton on `meta` will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flexray.models.discovery import router_weight
from flexray.models.graft import pairs
from flexray.models.grafted import low_rank_shapes
from flexray.models.shapes import shapes_of
from flexray.parts import Gate, Graft, Lora, Part, Routed
from flexray.state import Shapes, part_of

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block


@dataclass(frozen=True)
class Flops:
    """FLOPs per token of the frozen forward."""

    linear: int
    """Attention's projections, shared experts, dense layers and the head."""
    router: int
    experts: int
    """Those k that the router picks."""

    @property
    def total(self) -> int:
        return self.linear + self.router + self.experts


@dataclass(frozen=True)
class Numbers:
    """How many numbers one client would send, one way, by what is shared."""

    lora: int
    """LoRA on attention projections."""
    lora_experts: int
    """That, and LoRA on every routed expert."""
    non_routed: int
    """All weights that are no routed expert."""
    full: int


def frozen_flops(backbone: Backbone) -> Flops:
    """Of one token in the frozen model."""
    linear = sum(2 * m.weight.numel() for m in _linears(backbone))
    router = sum(2 * router_weight(b).numel() for b in backbone.blocks)
    experts = sum(picked(b) * expert_flops(b) for b in backbone.blocks)
    return Flops(linear, router, experts)


def expert_flops(block: Block) -> int:
    """Of one token in one pretrained expert."""
    return 2 * expert_numbers(block)


def expert_numbers(block: Block) -> int:
    """Parameters of one pretrained expert, biases and norms left out."""
    held: Any = block.experts
    return sum(t.numel() for t in held.parameters() if t.dim() == 3) // block.n_experts


def added_flops(backbone: Backbone, parts: tuple[Part, ...]) -> int:
    """What these parts add, per token: K + 1 experts instead of K, gates, adapters.

    In place, a token pays if it picks the client's expert, which k in E do: for the own copy, and once more for the pretrained
    one that is taken away; with LoRA for both as one. Anchors' forward of the prompt is not counted.
    """
    return sum(_adapters(backbone, p, parts) for p in parts) + sum(_grafts(backbone, *pair) for pair in pairs(parts))


def numbers(backbone: Backbone, lora: Lora) -> Numbers:
    """What LoRA on these targets, also on all experts, the non-routed weights, or the full model would send."""

    def of(part: Part) -> int:
        return _count(shapes_of(backbone, (part,)))

    on_attention = of(Part("lora", "lora", "shared", lora))
    on_experts = of(Part("routed", "routed", "shared", Routed(rank=lora.rank, alpha=lora.alpha)))
    inside = sum(p.numel() for b in backbone.blocks for p in b.experts.parameters())
    return Numbers(on_attention, on_attention + on_experts, backbone.parameters - inside, backbone.parameters)


def picked(block: Block) -> int:
    """k, the experts that a token gets: seen by running the block up to its experts."""
    found: list[int] = []

    class Seen(Exception):
        pass

    def at_experts(_: Any, args: Any) -> None:
        found.append(args[1].shape[1])
        raise Seen

    hook = block.experts.register_forward_pre_hook(at_experts)
    like = next(block.experts.parameters())
    try:
        block.module(torch.zeros(1, 2, block.width, dtype=like.dtype, device=like.device))
    except Seen:
        pass
    finally:
        hook.remove()
    return found[0]


def _linears(backbone: Backbone) -> list[nn.Linear]:
    """Every linear layer that is no router and no routed expert."""
    apart = {m for b in backbone.blocks for inner in (b.router, b.experts) for m in inner.modules()}
    return [m for m in backbone.model.modules() if isinstance(m, nn.Linear) and m not in apart]


def _adapters(backbone: Backbone, part: Part, parts: tuple[Part, ...]) -> int:
    """Every number of an adapter meets every token once; of routed ones, those of k in E experts."""
    if part.kind in ("expert", "gate", "anchors"):
        return 0
    if isinstance(part.config, Routed):
        return sum(picked(b) * 2 * _count(low_rank_shapes(b, 1, part.config.rank)) for b in backbone.blocks)
    return 2 * _count({name: s for name, s in shapes_of(backbone, parts).items() if part_of(name) == part.name})


def _grafts(backbone: Backbone, expert: Part, gate: Part | None) -> int:
    mode = gate.config.mode if gate and isinstance(gate.config, Gate) else "open"
    assert isinstance(expert.config, Graft)
    return 0 if mode == "off" else sum(_graft(b, expert.config, mode) for b in backbone.blocks)


def _graft(block: Block, graft: Graft, mode: str) -> int:
    one, full = expert_flops(block), graft.train == "full"
    own = one if full else one + 2 * _count(low_rank_shapes(block, 1, graft.rank))
    if mode == "in_place":
        return graft.experts * picked(block) * (own + (one if full else 0)) // block.n_experts
    return graft.experts * (own + (2 * block.width if mode != "open" else 0))


def _count(shapes: Shapes) -> int:
    return sum(map(prod, shapes.values()))
