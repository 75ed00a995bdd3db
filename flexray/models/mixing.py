"""Mixers: at every adapted layer, each token's shares of several adapters, by a trained softmax (FedALT, arXiv 2503.11880).

The record leaves open whether one mixer serves a layer or a projection, and its start: here it is one per projection, with a
bias, at zero, so that all have the same share at first. Shape suffixes: K seats, N flat tokens, X input width, M adapters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flexray.models.adapters import sites
from flexray.parts import Mixer, Part
from flexray.state import Shapes

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone


def mixer_shapes(part: Part, parts: tuple[Part, ...], backbone: Backbone) -> Shapes:
    """Name to shape of one client's mixer: weight [M, X] and bias [M] at every layer that its adapters sit on."""
    assert isinstance(part.config, Mixer)
    over = part.config.over
    first = next(p for p in parts if p.name == over[0])
    shapes: Shapes = {}
    for path, linear in sites(first, backbone).items():
        shapes[f"{part.name}/{path}/weight"] = (len(over), linear.in_features)
        shapes[f"{part.name}/{path}/bias"] = (len(over),)
    return shapes


def token_shares(weight_KMX: Tensor, bias_KM: Tensor, x_KNX: Tensor) -> Tensor:
    """Each token's shares of the M adapters, [K, N, M]: softmax(W·x + b)."""
    logits_KNM = torch.baddbmm(bias_KM.to(x_KNX.dtype).unsqueeze(1), x_KNX, weight_KMX.to(x_KNX.dtype).mT)
    return logits_KNM.softmax(-1, dtype=torch.promote_types(x_KNX.dtype, torch.float32)).to(x_KNX.dtype)
