"""All that K seats add to the linear layers of a model: which adapters there are at each of them, and their sum.

Shape suffixes: K seats, B rows, T tokens, N flat tokens, R rank, X input width, Y output width, M adapters weighed against
each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flexray.models.adapters import adapted, options, sites
from flexray.models.mixing import token_shares
from flexray.models.use import Use
from flexray.parts import Anchors, Lora, Mixer, Part, adapters
from flexray.state import State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter at one layer. `weigher`: the part whose shares it is multiplied by, at the index `place`."""

    names: frozenset[str]
    """The parts that must be in use."""
    lora: Lora
    a_KRX: Tensor
    b_KYR: Tensor
    weigher: str | None
    place: int


@dataclass(frozen=True, eq=False)
class Layer:
    """All that seats may add to one linear layer; `deltas` and `mixers` are by part, a mixer as (weight, bias)."""

    linear: nn.Linear
    adapters: list[Adapter] = field(default_factory=list)
    deltas: dict[str, Tensor] = field(default_factory=dict)
    mixers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def adapted_layers(backbone: Backbone, parts: tuple[Part, ...], tensors: State) -> list[Layer]:
    """Every layer that these parts adapt, with its own of `tensors`."""
    layers: dict[str, Layer] = {}
    weighers = {
        name: (p.name, i) for p in parts if isinstance(p.config, Mixer | Anchors) for i, name in enumerate(p.config.over)
    }
    for one, two in adapters(parts):
        weigher, place = weighers.get(one.name) or weighers.get(two.name) or (None, 0)
        for path, linear in sites(one, backbone).items():
            a, b = tensors[f"{one.name}/{path}/a"], tensors[f"{two.name}/{path}/b"]
            adapter = Adapter(frozenset({one.name, two.name}), options(one), a, b, weigher, place)
            layers.setdefault(path, Layer(linear)).adapters.append(adapter)
            if weigher is not None and (weight := tensors.get(f"{weigher}/{path}/weight")) is not None:
                layers[path].mixers[weigher] = (weight, tensors[f"{weigher}/{path}/bias"])
    for part in (p for p in parts if p.kind == "delta"):
        for path, linear in sites(part, backbone).items():
            layers.setdefault(path, Layer(linear)).deltas[part.name] = tensors[f"{part.name}/{path}/w"]
    return list(layers.values())


def adapt(layer: Layer, use: Use, x: Tensor, out: Tensor) -> Tensor | None:
    """The layer's output [K·B, T, Y] for its input [K·B, T, X] with all that is in use added; None where nothing is."""
    inside = [adapter for adapter in layer.adapters if adapter.names <= use.parts]
    deltas = [w_KYX for name, w_KYX in layer.deltas.items() if name in use.parts]
    if not inside and not deltas:
        return None
    x_KNX, y_KNY = use.seated(x), use.seated(out)
    shares = _shares(layer, use, x_KNX)
    for one in inside:
        own_KNX = use.seated(use.dropped(one.names, one.lora.dropout, x))
        share_KN1 = shares[one.weigher][..., one.place, None] if one.weigher in shares else None
        y_KNY = adapted(y_KNY, own_KNX, one.a_KRX, one.b_KYR, one.lora.alpha / one.lora.rank, share_KN1)
    for w_KYX in deltas:
        y_KNY = torch.baddbmm(y_KNY, x_KNX, w_KYX.to(x.dtype).mT)
    return y_KNY.view(out.shape)


def _shares(layer: Layer, use: Use, x_KNX: Tensor) -> dict[str | None, Tensor]:
    """Part to the shares [K, N, M] that it gives the adapters of this layer: by token, or by row."""
    mixed = {name: token_shares(*tensors, x_KNX) for name, tensors in layer.mixers.items() if name in use.parts}
    N = x_KNX.shape[1]
    rows = {name: t.to(x_KNX.dtype).repeat_interleave(N // t.shape[1], 1) for name, t in use.shares.items()}
    return {**mixed, **rows}
