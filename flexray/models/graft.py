"""Grafting: what a client's private experts and gates are, and what they start as.

Shape suffixes: G grafted experts, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from flexray.errors import ConfigError
from flexray.models import selection
from flexray.models.adapters import random_a
from flexray.models.grafted import low_rank_shapes, stored
from flexray.models.selection import Batch, Choice
from flexray.parts import Gate, Graft, Part
from flexray.state import State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block


def select(backbone: Backbone, batches: Iterable[Batch], graft: Graft, seed: int) -> Choice:
    """Block name to the experts that one client grafts there, from the client's calibration rows (see `selection`)."""
    check(backbone, graft)
    return selection.choose(backbone, batches, graft, seed)


def graft(
    backbone: Backbone,
    chosen: Choice,
    graft: Graft,
    gate: Gate | None,
    seed: int,
    names: tuple[str, str] = ("expert", "gate"),
) -> State:
    """What one client's experts and gates start as, float32 on the CPU; `names` are those of the two parts."""
    state: State = {}
    for block in backbone.blocks if not _is_off(gate) else ():
        experts = chosen[block.name]
        assert len(experts) == graft.experts
        state |= _expert_start(block, experts, graft, f"{names[0]}/{block.name}", seed)
        if gate is not None:
            state |= _gate_start(block, experts, gate, f"{names[1]}/{block.name}")
    return state


def _expert_start(block: Block, chosen: list[int], graft: Graft, prefix: str, seed: int) -> State:
    index = torch.tensor(chosen, dtype=torch.int64)
    if graft.train == "full":
        start = {name: t[index.to(t.device)].detach().float().cpu() for name, t in stored(block.experts).items()}
        if graft.start == "identity":
            start |= {name: torch.zeros_like(t) for name, t in start.items() if name.startswith("down")}
        return {f"{prefix}/index": index} | {f"{prefix}/{name}": t for name, t in start.items()}
    shapes = {f"{prefix}/{name}": shape for name, shape in low_rank_shapes(block, graft.experts, graft.rank).items()}
    adapters = {n: random_a(shape, seed, n) if n.endswith("_a") else torch.zeros(shape) for n, shape in shapes.items()}
    return {f"{prefix}/index": index} | adapters


def _gate_start(block: Block, chosen: list[int], gate: Gate, prefix: str) -> State:
    if not _is_trained(gate):
        return {}
    weight_GD, bias_G = torch.zeros(len(chosen), block.width), torch.zeros(len(chosen))
    if gate.init == "router_row":
        weight_GD = torch.stack([block.router_row(i).cpu() for i in chosen])
    if gate.init == "closed":
        bias_G -= 4.0
    return {f"{prefix}/weight": weight_GD, f"{prefix}/bias": bias_G}


def graft_shapes(backbone: Backbone, expert: Part, gate: Part | None) -> dict[str, tuple[int, ...]]:
    """Name to shape of one client's grafted experts and gates.

    A gate that stands open, or an expert in place, has no gate tensors: nothing to train; where it is off, neither has the expert.
    """
    graft, mode = _graft(expert), _gate(gate)
    check(backbone, graft, mode)
    shapes: dict[str, tuple[int, ...]] = {}
    for block in backbone.blocks if not _is_off(mode) else ():
        own = _copy_shapes(block, graft) if graft.train == "full" else low_rank_shapes(block, graft.experts, graft.rank)
        own = {"index": (graft.experts,)} | own
        shapes |= {f"{expert.name}/{block.name}/{name}": shape for name, shape in own.items()}
        if gate is not None and mode is not None and _is_trained(mode):
            shapes[f"{gate.name}/{block.name}/weight"] = (graft.experts, block.width)
            shapes[f"{gate.name}/{block.name}/bias"] = (graft.experts,)
    return shapes


def _copy_shapes(block: Block, graft: Graft) -> dict[str, tuple[int, ...]]:
    return {name: (graft.experts, *t.shape[1:]) for name, t in stored(block.experts).items()}


def pairs(parts: tuple[Part, ...]) -> list[tuple[Part, Part | None]]:
    """Every expert part with its gate part: the i-th with the i-th, None where there are fewer gates."""
    experts, gates = ([p for p in parts if p.kind == kind] for kind in ("expert", "gate"))
    assert len(gates) <= len(experts), "a gate without an expert"
    return [(expert, gates[i] if i < len(gates) else None) for i, expert in enumerate(experts)]


def check(backbone: Backbone, graft: Graft, gate: Gate | None = None) -> None:
    """Refuse what this model's blocks cannot do."""
    problems = dict.fromkeys(p for block in backbone.blocks for p in _problems(block, graft, gate))
    if problems:
        raise ConfigError(*problems)


def _problems(block: Block, graft: Graft, gate: Gate | None) -> Iterator[str]:
    most, softmax = block.n_experts, block.scores in ("softmax_all", "softmax_topk")
    if gate is not None and gate.mode == "route" and not softmax:
        yield (
            "algorithm.gate.mode: expected add, mix, open or off (or in_place) with a router whose weights are no softmax, got 'route'; "
            "set gate.mode to add"
        )
    if graft.experts > most:
        yield f"algorithm.graft.experts: expected at most {most}, the model's experts per block, got {graft.experts}; lower it"
    if graft.experts > 1 and graft.select == "reconstruction" and block.scores == "other":
        yield (
            f"algorithm.graft.experts: expected 1 with a router whose scores cannot be restricted to some experts, "
            f"got {graft.experts}; set it to 1, or graft.select to usage"
        )
    if graft.index is not None and not 0 <= graft.index < most:
        yield f"algorithm.graft.index: expected an expert's number from 0 to {most - 1}, got {graft.index}; choose one of them"
    if graft.train == "lora" and graft.rank < 1:
        yield f"algorithm.graft.rank: expected at least 1, got {graft.rank}; raise it"


def _is_trained(gate: Gate) -> bool:
    return gate.mode in ("add", "mix", "route")


def _is_off(gate: Gate | None) -> bool:
    return gate is not None and gate.mode == "off"


def _graft(part: Part) -> Graft:
    assert isinstance(part.config, Graft)
    return part.config


def _gate(part: Part | None) -> Gate | None:
    if part is None:
        return None
    assert isinstance(part.config, Gate)
    return part.config
