"""Seats: everything that is trained, for K clients in one forward, attached to a frozen backbone by hooks.

Rows of a batch are ordered by seat, [K·B, T], so that any activation views as [K, N, …]. Shape suffixes: K seats, B rows,
T tokens, N flat tokens, D width, S anchors, G grafted experts, P trained numbers of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flexray.models import recompute
from flexray.models.anchors import goes_on, represent, row_shares
from flexray.models.flat import Flat
from flexray.models.gates import Mode, blend
from flexray.models.graft import pairs
from flexray.models.grafted import grafted
from flexray.models.in_place import in_place
from flexray.models.layers import Layer, adapt, adapted_layers
from flexray.models.routed import RoutedBlock, StandIn, adapted_experts, routed_blocks
from flexray.models.shapes import fresh_lora, fresh_part, is_trained, shapes_of
from flexray.models.use import Use
from flexray.parts import Anchors, Gate, Graft, Part, adapters
from flexray.state import Shapes, State, part_of

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block

__all__ = ["Seats", "fresh_lora", "fresh_part", "is_trained", "shapes_of"]


@dataclass(frozen=True, eq=False)
class _Site:
    """Grafted experts and their gate at one block: their tensors by last name."""

    block: Block
    names: frozenset[str]
    """The parts that must be in use."""
    graft: Graft
    mode: Mode
    expert: State
    gate: State


class Seats:
    """All the parts of K clients on one backbone. They take effect inside `using` only.

    Trained numbers are masters of at least 32 bits, cast to the compute dtype on use. The i-th expert part goes with the
    i-th gate part; an expert without one is served open. Law: K seats in one forward equal one by one.
    """

    def __init__(self, backbone: Backbone, parts: tuple[Part, ...], seats: int):
        self.backbone, self.parts, self.seats = backbone, parts, seats
        self.shapes = shapes_of(backbone, parts)
        dtype = torch.promote_types(backbone.dtype, torch.float32)
        self._flats = {p.name: Flat(self._trained(p), seats, dtype, backbone.device) for p in parts}
        fixed = {name: shape for name, shape in self.shapes.items() if not is_trained(name)}
        self._tensors = {n: t for flat in self._flats.values() for n, t in flat.tensors.items()}
        self._tensors |= {name: _fixed(name, (seats, *shape), backbone.device) for name, shape in fixed.items()}
        self._moved: set[str] = set()
        """Parts that ever took gradients: those of other parts are never touched, so they take no memory on the CPU."""
        self._off = self._now = Use(seats)
        self._logits: dict[_Site, Tensor] = {}
        self._kept: Callable[[], None] | None = None
        self._handles = [*self._attach_anchors(), *self._attach_layers(), *self._attach_routed(), *self._attach_grafts()]

    def put(self, state: State) -> None:
        """Set the values of some or all tensors, each [K, …]."""
        for name, t in state.items():
            if name not in self._tensors:
                raise KeyError(f"{name}: no such tensor; these parts have {', '.join(self._tensors) or 'none'}")
            if t.shape != self._tensors[name].shape:
                raise ValueError(f"{name}: expected shape {tuple(self._tensors[name].shape)}, got {tuple(t.shape)}")
        with torch.no_grad():
            for name, t in state.items():
                self._tensors[name].copy_(t)

    def take(self, parts: Iterable[str] | None = None) -> State:
        """Copies of all tensors of these parts (None: all), each [K, …]."""
        return {name: t.detach().clone() for name, t in self._of(parts).items()}

    def live(self, parts: Iterable[str] | None = None) -> State:
        """The trained tensors themselves: gradients flow into them."""
        return {name: t for name, t in self._of(parts).items() if is_trained(name)}

    def flat(self, part: str) -> tuple[Tensor, Tensor]:
        """A part's trained numbers and their gradients, both [K, P]; all its tensors are views of them."""
        return self._flats[part].weights, self._flats[part].grads

    def zero_grad(self) -> None:
        """Gradients add up until this."""
        for part in self._moved:
            self._flats[part].grads.zero_()

    @contextmanager
    def using(
        self,
        parts: Iterable[str] | None = None,
        train: Iterable[str] = (),
        dropout: Sequence[torch.Generator] | None = None,
        widths: Sequence[int] | None = None,
        starts: Tensor | None = None,
    ) -> Iterator[None]:
        """Inside, these parts take effect (None: all), and those of `train` take gradients.

        A graft takes effect when its expert and its gate (if that has tensors) are in use, a divided adapter when both of
        its parts are, anchors when both of their adapters are. `dropout`: a generator per seat, on the backbone's device,
        for the adapters in `train`; without it nothing is dropped. `widths`: tokens per row of each seat's own batch, before
        it was padded to its neighbours'. `starts` [K·B]: where each row's response starts; anchors need it.
        """
        known = frozenset(self._flats)
        use = Use(self.seats, known if parts is None else frozenset(parts), frozenset(train), dropout, widths, starts)
        moved = {name for name in use.train & known if self._flats[name].tensors}
        assert use.parts | use.train <= known and moved <= use.parts, f"of {known}: use {use.parts}, train {use.train}"
        self._moved |= moved
        for name, flat in self._flats.items():
            for t in flat.tensors.values():
                t.requires_grad_(name in use.train)
        before, self._now = self._now, use
        try:
            yield
        finally:
            self._now = before
            self._logits.clear()

    def recompute(self, on: bool) -> None:
        """Whether the backward makes activations again instead of keeping them; off at first."""
        if self._kept is not None and not on:
            self._kept()
            self._kept = None
        if self._kept is None and on:
            self._kept = recompute.attach(self.backbone, lambda: self._now.dropout or ())

    def detach(self) -> None:
        """Remove the hooks: the model is as it was."""
        self.recompute(False)
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _trained(self, part: Part) -> Shapes:
        return {name: shape for name, shape in self.shapes.items() if part_of(name) == part.name and is_trained(name)}

    def _of(self, parts: Iterable[str] | None) -> State:
        wanted = frozenset(self._flats if parts is None else parts)
        return {name: t for name, t in self._tensors.items() if part_of(name) in wanted}

    def _below(self, prefix: str) -> State:
        return {n.rpartition("/")[2]: t for n, t in self._tensors.items() if n.rpartition("/")[0] == prefix}

    def _attach_layers(self) -> Iterator[Any]:
        for layer in adapted_layers(self.backbone, self.parts, self._tensors):
            yield layer.linear.register_forward_hook(partial(self._adapt, layer))

    def _attach_anchors(self) -> Iterator[Any]:
        for part in self.parts:
            if isinstance(part.config, Anchors):
                sides = [side for side in adapters(self.parts) if {p.name for p in side} & {*part.config.over}]
                weigh = partial(self._weigh, part.name, part.config, {p.name for side in sides for p in side} | {part.name})
                model: Any = self.backbone.model.base_model
                yield model.register_forward_pre_hook(weigh, with_kwargs=True)

    def _attach_routed(self) -> Iterator[Any]:
        for site in routed_blocks(self.backbone, self.parts, self._tensors):
            yield StandIn(site.block.experts, partial(self._route, site))

    def _attach_grafts(self) -> Iterator[Any]:
        for expert, gate in pairs(self.parts):
            for block in self.backbone.blocks:
                site = self._site(block, expert, gate)
                if site is None:
                    continue
                if site.mode in ("add", "open"):
                    yield block.module.register_forward_hook(partial(self._blend, site))
                else:  # these rescale the routed experts, and not a shared one
                    yield block.experts.register_forward_hook(partial(self._blend, site))
                if site.mode == "route":
                    yield block.router.register_forward_hook(partial(self._remember, site))

    def _site(self, block: Block, expert: Part, gate: Part | None) -> _Site | None:
        mode = gate.config.mode if gate and isinstance(gate.config, Gate) else "open"
        if mode == "off":
            return None
        assert isinstance(expert.config, Graft)
        own = [self._below(f"{p.name}/{block.name}") if p else {} for p in (expert, gate)]
        names = frozenset(p.name for p, tensors in zip((expert, gate), own, strict=True) if p and tensors)
        return _Site(block, names, expert.config, mode, *own)

    def _adapt(self, layer: Layer, _: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        return adapt(layer, self._now, args[0], out)

    def _weigh(self, name: str, anchors: Anchors, names: set[str], _: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        """Before the rows go through the model, once through the frozen one: for their shares."""
        if not names <= self._now.parts or goes_on(inputs):
            return
        use, self._now = self._now, self._off
        try:
            ids = args[0] if args else inputs["input_ids"]
            assert use.starts is not None, f"{name}: give `using` the rows' starts"
            padding = {key: inputs.get(key) for key in ("attention_mask", "position_ids")}
            prompts = represent(self.backbone, ids, use.starts, anchors.pooling, **padding)
            use.shares[name] = row_shares(anchors, self._tensors[f"{name}/reps"], use.seated(prompts))
        finally:
            self._now = use

    def _route(self, site: RoutedBlock, *routed: Tensor) -> Tensor | None:
        return adapted_experts(site, self._now, *routed)

    def _blend(self, site: _Site, _: nn.Module, args: Any, out: Any) -> Any:
        """The output of a block, or of its routed experts, with the private experts blended in."""
        if not site.names <= self._now.parts:
            return None
        if site.mode == "in_place":
            return in_place(site.block, site.expert, site.graft, self.seats, out, args)
        y, *rest = out if isinstance(out, tuple) else (out,)
        x_KND = self._now.seated(args[0])
        private_KGND = grafted(site.block, site.expert, x_KND, site.graft)
        logits_KNS = self._logits.pop(site, None)
        y_KND = blend(site.mode, site.block, site.gate, x_KND, self._now.seated(y), private_KGND, logits_KNS)
        return (y_KND.view(y.shape), *rest) if isinstance(out, tuple) else y_KND.view(y.shape)

    def _remember(self, site: _Site, _: nn.Module, args: Any, out: Any) -> None:
        """Keeps the logits over which the router's softmax runs, all or those of the chosen experts, for the blend."""
        if site.names <= self._now.parts:
            logits, _weights, chosen = out
            over = logits if site.block.scores == "softmax_all" else logits.gather(-1, chosen)
            self._logits[site] = self._now.seated(over)


def _fixed(name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """What is not trained: on the CPU whatever the device if it is read as Python numbers in every forward."""
    return torch.zeros(shape, dtype=torch.int64) if name.endswith("/index") else torch.zeros(shape, device=device)
