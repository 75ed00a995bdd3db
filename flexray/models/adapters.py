"""Adapters for K seats: where they sit, what they consist of, how an A starts, what one adds to a layer's output.

ΔW = (alpha/rank)·B·A (Hu et al. 2021, arXiv 2106.09685), in one part or divided into two, or any ΔW. Shape suffixes: K seats,
N flat tokens, R rank, X input width, Y output width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flexray.parts import Lora, Part
from flexray.state import Shapes

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone

SIDES = {"lora": "ab", "lora_a": "a", "lora_b": "b", "delta": "w"}
"""Kind to the tensors that it has at every layer: A, B, or ΔW itself."""


def sites(part: Part, backbone: Backbone) -> dict[str, nn.Linear]:
    """The layers that a part sits on, by path."""
    return backbone.family.adapter_sites(backbone.model, options(part).targets)


def adapter_shapes(part: Part, backbone: Backbone) -> Shapes:
    """Name to shape of one client's adapters: a [R, X] and b [Y, R], or w [Y, X], for every site."""
    rank = options(part).rank
    shapes: Shapes = {}
    for path, linear in sites(part, backbone).items():
        X, Y = linear.in_features, linear.out_features
        shape = {"a": (rank, X), "b": (Y, rank), "w": (Y, X)}
        shapes |= {f"{part.name}/{path}/{side}": shape[side] for side in SIDES[part.kind]}
    return shapes


def random_a(shape: Sequence[int], seed: int, name: str) -> Tensor:
    """The start of an A: uniform within ±1/√X (Kaiming with a = √5), from a generator seeded by (seed, name)."""
    return torch.rand(tuple(shape), generator=seeded(seed, name)).mul_(2).sub_(1).div_(math.sqrt(shape[-1]))


def seeded(seed: int, name: str) -> torch.Generator:
    """A generator of its own for every (seed, name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def adapted(
    out_KNY: Tensor, x_KNX: Tensor, a_KRX: Tensor, b_KYR: Tensor, scale: float, share_KN1: Tensor | None = None
) -> Tensor:
    """The layer's output with every seat's own adapter added, times its share. With b = 0 it is the output, bit for bit."""
    low_KNR = torch.bmm(x_KNX, a_KRX.to(x_KNX.dtype).mT)
    if share_KN1 is not None:
        low_KNR = low_KNR * share_KN1
    return torch.baddbmm(out_KNY, low_KNR, b_KYR.to(x_KNX.dtype).mT, alpha=scale)


def options(part: Part) -> Lora:
    """Of an adapter."""
    assert isinstance(part.config, Lora)
    return part.config
