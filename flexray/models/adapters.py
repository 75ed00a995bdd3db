"""Low-rank adapters for K seats: where they sit, how they start, what they add to a layer's output.

ΔW = (alpha/rank)·B·A (Hu et al. 2021, arXiv 2106.09685). Shape suffixes: K seats, B rows, T tokens, N flat tokens, R rank,
X input width, Y output width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from flexray.parts import Lora, Part
from flexray.state import State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone


def lora_shapes(part: Part, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Name to shape of one client's adapters: a [R, X] and b [Y, R] for every site."""
    lora = _options(part)
    shapes: dict[str, tuple[int, ...]] = {}
    for path, linear in backbone.family.adapter_sites(backbone.model, lora.targets).items():
        shapes[f"{part.name}/{path}/a"] = (lora.rank, linear.in_features)
        shapes[f"{part.name}/{path}/b"] = (linear.out_features, lora.rank)
    return shapes


def fresh_lora(part: Part, backbone: Backbone, seed: int) -> State:
    """One client's starting adapters, the same for everybody: A random by (seed, name), B zero; on the CPU."""
    shapes = lora_shapes(part, backbone)
    return {name: random_a(shape, seed, name) if name.endswith("/a") else torch.zeros(shape) for name, shape in shapes.items()}


def random_a(shape: Sequence[int], seed: int, name: str) -> Tensor:
    """The start of an A: uniform within ±1/√X (Kaiming with a = √5), from a generator seeded by (seed, name)."""
    return torch.rand(tuple(shape), generator=seeded(seed, name)).mul_(2).sub_(1).div_(math.sqrt(shape[-1]))


def seeded(seed: int, name: str) -> torch.Generator:
    """A generator of its own for every (seed, name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def adapted(out_KNY: Tensor, x_KNX: Tensor, a_KRX: Tensor, b_KYR: Tensor, scale: float) -> Tensor:
    """The layer's output with every seat's own adapter added. With b = 0 it is the layer's output, bit for bit."""
    low_KNR = torch.bmm(x_KNX, a_KRX.to(x_KNX.dtype).mT)
    return torch.baddbmm(out_KNY, low_KNR, b_KYR.to(x_KNX.dtype).mT, alpha=scale)


def dropped(x_KBTX: Tensor, p: float, generators: Sequence[torch.Generator], widths: Sequence[int] | None) -> Tensor:
    """Dropout whose mask, seat by seat, comes from that seat's generator and covers its own `widths[k]` tokens only.

    So a seat's masks do not depend on who shares the forward; what a wider neighbour pads stays as it is.
    """
    _, B, T, X = x_KBTX.shape
    masks = []
    for generator, width in zip(generators, widths or [T] * len(generators), strict=True):
        mask_BTX = torch.empty(B, width, X, device=x_KBTX.device, dtype=x_KBTX.dtype)
        mask_BTX.bernoulli_(1 - p, generator=generator).div_(1 - p)
        masks.append(F.pad(mask_BTX, (0, 0, 0, T - width), value=1.0))
    return x_KBTX * torch.stack(masks)


def _options(part: Part) -> Lora:
    assert isinstance(part.config, Lora)
    return part.config
