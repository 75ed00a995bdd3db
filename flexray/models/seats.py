"""Seats: everything that is trained, for K clients in one forward, attached to a frozen backbone by hooks.

Rows of a batch are ordered by seat, [K·B, T], so that any activation views as [K, N, …]. Shape suffixes: K seats, B rows,
T tokens, N flat tokens, D width, R rank, G grafted experts, P trained numbers of a part.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flexray.models.adapters import adapted, dropped, fresh_lora, lora_shapes
from flexray.models.gates import Mode, blend
from flexray.models.graft import graft_shapes, pairs
from flexray.models.grafted import grafted
from flexray.parts import Gate, Graft, Lora, Part
from flexray.state import State, part_of

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block

__all__ = ["Seats", "fresh_lora", "is_trained", "shapes_of"]

Shapes = dict[str, tuple[int, ...]]


def shapes_of(backbone: Backbone, parts: tuple[Part, ...]) -> Shapes:
    """Name to shape of all that one client has in these parts; a skeleton on `meta` will do."""
    shapes: Shapes = {}
    for part in (p for p in parts if p.kind == "lora"):
        shapes |= lora_shapes(part, backbone)
    for expert, gate in pairs(parts):
        shapes |= graft_shapes(backbone, expert, gate)
    return shapes


def is_trained(name: str) -> bool:
    """Whether a tensor is trained; which expert a graft was cut from (`index`) is not."""
    return not name.endswith("/index")


@dataclass(frozen=True)
class _Use:
    """What takes effect now."""

    parts: frozenset[str] = frozenset()
    train: frozenset[str] = frozenset()
    dropout: Sequence[torch.Generator] | None = None
    widths: Sequence[int] | None = None


class _Flat:
    """One part's trained tensors: leaves that are views of one buffer [K, P], their gradients views of another."""

    def __init__(self, shapes: Shapes, seats: int, dtype: torch.dtype, device: torch.device):
        _hush()
        self.weights = torch.zeros(seats, sum(map(prod, shapes.values())), dtype=dtype, device=device)
        self.grads = torch.zeros_like(self.weights)
        self.tensors: State = {}
        start = 0
        for name, shape in shapes.items():
            piece = slice(start, start := start + prod(shape))
            self.tensors[name] = self.weights[:, piece].view(seats, *shape).detach()
            self.tensors[name].grad = self.grads[:, piece].view(seats, *shape)


@cache
def _hush() -> None:
    """Draw torch's one warning per process about gradients that have gaps between rows: here they are rows of [K, P]."""
    row = torch.zeros(2, 2)[:, :1].requires_grad_()
    row.grad = torch.zeros(2, 2)[:, :1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row.sum().backward()


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
    """Adapters, grafted experts and gates of K clients on one backbone. Takes effect inside `using` only.

    Trained numbers are masters of at least 32 bits, cast to the compute dtype on use. The i-th expert part goes with the
    i-th gate part; an expert without one is served open. Law: K seats in one forward equal one by one.
    """

    def __init__(self, backbone: Backbone, parts: tuple[Part, ...], seats: int):
        self.backbone, self.parts, self.seats = backbone, parts, seats
        self.shapes = shapes_of(backbone, parts)
        dtype = torch.promote_types(backbone.dtype, torch.float32)
        self._flats = {p.name: _Flat(self._trained(p), seats, dtype, backbone.device) for p in parts}
        fixed = {name: shape for name, shape in self.shapes.items() if not is_trained(name)}
        # On the CPU whatever the device: they are read as Python numbers in every forward.
        self._fixed = {name: torch.zeros(seats, *shape, dtype=torch.int64) for name, shape in fixed.items()}
        self._tensors = {n: t for flat in self._flats.values() for n, t in flat.tensors.items()} | self._fixed
        self._now = _Use()
        self._logits: dict[_Site, Tensor] = {}
        self._handles = [*self._attach_adapters(), *self._attach_grafts()]

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
        for flat in self._flats.values():
            flat.grads.zero_()

    @contextmanager
    def using(
        self,
        parts: Iterable[str] | None = None,
        train: Iterable[str] = (),
        dropout: Sequence[torch.Generator] | None = None,
        widths: Sequence[int] | None = None,
    ) -> Iterator[None]:
        """Inside, these parts take effect (None: all), and those of `train` take gradients.

        A graft takes effect when its expert and its gate (if that has tensors) are in use. `dropout`: a generator per seat,
        on the backbone's device, for the adapters in `train`; without it nothing is dropped. `widths`: tokens per row of each
        seat's own batch, before it was padded to its neighbours'.
        """
        known = frozenset(self._flats)
        use = _Use(known if parts is None else frozenset(parts), frozenset(train), dropout, widths)
        moved = {name for name in use.train & known if self._flats[name].tensors}
        assert use.parts | use.train <= known and moved <= use.parts, f"of {known}: use {use.parts}, train {use.train}"
        for name, flat in self._flats.items():
            for t in flat.tensors.values():
                t.requires_grad_(name in use.train)
        before, self._now = self._now, use
        try:
            yield
        finally:
            self._now = before
            self._logits.clear()

    def detach(self) -> None:
        """Remove the hooks: the model is as it was."""
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

    def _attach_adapters(self) -> Iterator[Any]:
        for part in self.parts:
            if isinstance(part.config, Lora):
                for path, linear in self.backbone.family.adapter_sites(self.backbone.model, part.config.targets).items():
                    own = self._below(f"{part.name}/{path}")
                    yield linear.register_forward_hook(partial(self._adapt, part.name, part.config, own["a"], own["b"]))

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

    def _adapt(self, name: str, lora: Lora, a: Tensor, b: Tensor, _: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        if name not in self._now.parts:
            return None
        x = args[0]
        if lora.dropout > 0 and self._now.dropout is not None and name in self._now.train:
            x = dropped(x.view(self.seats, -1, *x.shape[-2:]), lora.dropout, self._now.dropout, self._now.widths)
        return adapted(self._seated(out), self._seated(x), a, b, lora.alpha / lora.rank).view(out.shape)

    def _blend(self, site: _Site, _: nn.Module, args: Any, out: Any) -> Any:
        """The output of a block, or of its routed experts, with the private experts blended in."""
        if not site.names <= self._now.parts:
            return None
        y, *rest = out if isinstance(out, tuple) else (out,)
        x_KND = self._seated(args[0])
        private_KGND = grafted(site.block, site.expert, x_KND, site.graft)
        logits_KNS = self._logits.pop(site, None)
        y_KND = blend(site.mode, site.block, site.gate, x_KND, self._seated(y), private_KGND, logits_KNS)
        return (y_KND.view(y.shape), *rest) if isinstance(out, tuple) else y_KND.view(y.shape)

    def _remember(self, site: _Site, _: nn.Module, args: Any, out: Any) -> None:
        """Keeps the logits over which the router's softmax runs, all or those of the chosen experts, for the blend."""
        if site.names <= self._now.parts:
            logits, _weights, chosen = out
            over = logits if site.block.scores == "softmax_all" else logits.gather(-1, chosen)
            self._logits[site] = self._seated(over)

    def _seated(self, t: Tensor) -> Tensor:
        return t.reshape(self.seats, -1, t.shape[-1])
