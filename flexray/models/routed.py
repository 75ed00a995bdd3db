"""Adapters on every routed expert, for K seats: in effect where the router picks it, no expert is added.

They take the place of the experts' own forward (`experts.py`), with the same frozen products in the same order, so that none
is made twice and B = 0 is the frozen output. Tokens are sorted by expert; since tokens are ordered by seat, each expert's
pairs then are K cells, one per seat. Shape suffixes: K seats, E experts, C = E·K cells, N flat tokens, k experts per token,
P sorted pairs of token and expert, S rows of the frozen products (`rows.py` calls them R), D width, R rank, X input and
Y output width of a projection; H is what goes into the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from flexray.models import chain, experts
from flexray.models.grafted import activated, entry, fused, low_rank_shapes, normed
from flexray.models.rows import Rows, cells, groupable
from flexray.models.use import Use
from flexray.parts import Part, Routed
from flexray.state import Shapes, State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block
    from flexray.models.products import Groups

Instead = Callable[[Tensor, Tensor, Tensor], Tensor | None]
"""A forward (tokens, indices, weights) of experts in place of their own; None leaves it to them."""


def routed_shapes(part: Part, backbone: Backbone) -> Shapes:
    """Name to shape of one client's adapters: gate_a [E, R, D], gate_b [E, I, R] and so on for every block."""
    rank = _options(part).rank
    return {
        f"{part.name}/{block.name}/{name}": shape
        for block in backbone.blocks
        for name, shape in low_rank_shapes(block, block.n_experts, rank).items()
    }


@dataclass(frozen=True, eq=False)
class RoutedBlock:
    """The adapters of one block: part to its options and its tensors [K, E, …] by last name."""

    block: Block
    parts: dict[str, tuple[Routed, State]]


def routed_blocks(backbone: Backbone, parts: tuple[Part, ...], tensors: State) -> list[RoutedBlock]:
    """Every block with its own of `tensors`; none if no part is on routed experts."""
    wanted = [p for p in parts if p.kind == "routed"]
    of = {b: {p.name: (_options(p), _below(tensors, f"{p.name}/{b.name}/")) for p in wanted} for b in backbone.blocks}
    return [RoutedBlock(block, own) for block, own in of.items() if own]


class StandIn:
    """A forward in place of an experts module's own, until `remove`. The latest that gives an output is it."""

    def __init__(self, experts: nn.Module, instead: Instead):
        self._experts, self._instead = experts, instead
        self._stack().append(instead)

    def remove(self) -> None:
        stack = self._stack()
        stack.remove(self._instead)
        if not stack:
            del self._experts.forward, self._experts.stand_ins

    def _stack(self) -> list[Instead]:
        held: Any = self._experts
        if "stand_ins" not in vars(held):
            held.stand_ins = []
            held.forward = partial(_first, held.stand_ins, held.forward)
        return held.stand_ins


def _first(stack: list[Instead], own: Callable[..., Tensor], *args: Tensor, **named: Tensor) -> Tensor:
    for instead in reversed(stack):
        out = instead(*args, *named.values())
        if out is not None:
            return out
    return own(*args, **named)


def adapted_experts(site: RoutedBlock, use: Use, x_ND: Tensor, index_Nk: Tensor, weight_Nk: Tensor) -> Tensor | None:
    """The experts' output [N, D] with the adapters in use; None where none is."""
    inside = [_Inside(name, *site.parts[name], use) for name in site.parts if name in use.parts]
    if not inside:
        return None
    e = site.block.experts
    sorted_ND, rows, weight_Nk = experts.sort(e, x_ND, index_Nk, weight_Nk)
    y_SD = _through(e, chain.gathered(sorted_ND, rows), _Cells(rows, use.seats), inside)
    return chain.combined(y_SD, weight_Nk, rows).to(x_ND.dtype)


@dataclass(frozen=True, eq=False)
class _Cells:
    """The sorted pairs, and whose they are."""

    rows: Rows
    seats: int

    @property
    def choices(self) -> int:
        return self.rows.index_Nk.shape[1]

    @cached_property
    def _spread(self) -> bool:
        """Whether the frozen products want their rows elsewhere than one after another."""
        return len(self.rows.pair_R) > len(self.rows.order_P)

    def pairs(self, x_SX: Tensor) -> Tensor:
        """Out of rows, [P, X]."""
        return x_SX.index_select(0, self.rows.place_P) if self._spread else x_SX

    def back(self, x_PX: Tensor) -> Tensor:
        """Into rows, [S, X]."""
        if not self._spread:
            return x_PX
        return x_PX.new_zeros(len(self.rows.pair_R), x_PX.shape[1]).index_copy(0, self.rows.place_P, x_PX)

    def multiplied(self, x_PX: Tensor, weight_KEYX: Tensor) -> Tensor:
        """Each pair's row times its seat's matrix for its expert, [P, Y]."""
        groups = self._grouped if groupable(x_PX, *weight_KEYX.shape[2:]) else self._looped
        return chain.multiplied(x_PX, weight_KEYX.transpose(0, 1).flatten(0, 1), False, groups)

    @cached_property
    def _grouped(self) -> tuple[Groups, ...]:
        return cells(self.rows, self.seats, grouped=True)

    @cached_property
    def _looped(self) -> tuple[Groups, ...]:
        return cells(self.rows, self.seats, grouped=False)


@dataclass(frozen=True, eq=False)
class _Inside:
    """A part that is in use."""

    name: str
    options: Routed
    tensors: State
    use: Use

    def low(self, at: _Cells, name: str, x_PX: Tensor) -> Tensor:
        """scale·B·A·x of one projection, [P, Y]."""
        a_KERX, b_KEYR = (self.tensors[f"{name}_{side}"].to(x_PX.dtype) for side in "ab")
        return self.options.alpha / self.options.rank * at.multiplied(at.multiplied(x_PX, a_KERX), b_KEYR)

    def dropped(self, at: _Cells, x_PX: Tensor, every: bool) -> Tensor:
        """The adapters' input after dropout; what is masked is a token, or with `every` each of its k rows by itself.

        A seat's masks come from its own generator alone, token by token, whatever the order here.
        """
        p, use, each = self.options.dropout, self.use, at.choices if every else 1
        if p == 0 or use.dropout is None or self.name not in use.train:
            return x_PX
        tokens = len(at.rows.index_Nk) // use.seats
        width = max(use.widths) if use.widths else tokens
        ones = x_PX.new_ones(use.seats * (tokens // width), width, each * x_PX.shape[1])
        mask = use.dropped(frozenset({self.name}), p, ones).view(-1, x_PX.shape[1])
        return x_PX * mask[at.rows.order_P if every else at.rows.order_P // at.choices]


def _through(e: Any, x_SD: Tensor, at: _Cells, inside: list[_Inside]) -> Tensor:
    """Each expert, with each seat's adapters, over its own rows, [S, D]."""
    h_SH, x_PD = experts.linear(e, entry(e), x_SD, at.rows), at.pairs(x_SD)
    for part in inside:
        h_SH = h_SH + at.back(fused(e, partial(part.low, at), part.dropped(at, x_PD, every=False)))
    h_SI = activated(e, h_SH)
    y_SD, h_PI = experts.linear(e, "down", h_SI, at.rows), at.pairs(h_SI)
    for part in inside:
        y_SD = y_SD + at.back(part.low(at, "down", part.dropped(at, h_PI, every=True)))
    return normed(e, y_SD)


def _below(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _options(part: Part) -> Routed:
    assert isinstance(part.config, Routed)
    return part.config
