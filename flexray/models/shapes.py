"""What parts consist of: the names and shapes of their tensors, which of them are trained, what adapters start as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flexray.models.adapters import SIDES, adapter_shapes, random_a
from flexray.models.anchors import anchor_shapes
from flexray.models.graft import graft_shapes, pairs
from flexray.models.mixing import mixer_shapes
from flexray.models.routed import routed_shapes
from flexray.parts import Part
from flexray.state import Shapes, State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone


def shapes_of(backbone: Backbone, parts: tuple[Part, ...]) -> Shapes:
    """Name to shape of all that one client has in these parts; a skeleton on `meta` will do."""
    shapes: Shapes = {}
    for part in parts:
        shapes |= _shapes(part, parts, backbone)
    for expert, gate in pairs(parts):
        shapes |= graft_shapes(backbone, expert, gate)
    return shapes


def is_trained(name: str) -> bool:
    """Whether a tensor is trained; which expert a graft was cut from (`index`) is not, nor are anchors (`reps`)."""
    return not name.endswith(("/index", "/reps"))


def fresh_part(part: Part, parts: tuple[Part, ...], backbone: Backbone, seed: int) -> State:
    """The start of one of `parts` that is the same for everybody: every A random by (seed, name), all else zero; on the CPU.

    Grafts (see `graft`) and anchors (see `anchors.represent`) start from a client's own rows instead.
    """
    assert part.kind not in ("expert", "gate", "anchors")
    shapes = _shapes(part, parts, backbone)
    return {n: random_a(shape, seed, n) if n.endswith(("/a", "_a")) else torch.zeros(shape) for n, shape in shapes.items()}


def fresh_lora(part: Part, backbone: Backbone, seed: int) -> State:
    """`fresh_part` of an adapter, which needs no other part."""
    return fresh_part(part, (part,), backbone, seed)


def _shapes(part: Part, parts: tuple[Part, ...], backbone: Backbone) -> Shapes:
    if part.kind in SIDES:
        return adapter_shapes(part, backbone)
    if part.kind == "mixer":
        return mixer_shapes(part, parts, backbone)
    if part.kind == "routed":
        return routed_shapes(part, backbone)
    return anchor_shapes(part, backbone) if part.kind == "anchors" else {}
