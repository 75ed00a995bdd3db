"""Adapters on every routed expert, for K seats: in effect where the router picks it, no expert is added.

They take the place of the experts' own forward (`experts.py`), with the same frozen products in the same order, so that none
is made twice and B = 0 is the frozen output. Tokens are sorted by expert; since rows are ordered by seat, each expert's run
then is K runs, one per seat. Shape suffixes: K seats, E experts, N flat tokens, k experts per token, S = N·k sorted rows,
D width, I expert width, R rank, X input and Y output width of a projection; H is what goes into the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flexray.models.experts import _linear, _Reorder, _runs, _Spread
from flexray.models.grafted import activated, entry, fused, low_rank_shapes, normed
from flexray.models.use import Use
from flexray.parts import Part, Routed
from flexray.state import Shapes, State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block

Cells = list[tuple[int, int, int, int]]
"""(seat, expert, first row, last row + 1) of each pair that has rows."""
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
    N, k = index_Nk.shape
    expert_S, order_S = index_Nk.flatten().sort(stable=True)
    inverse_S = torch.empty_like(order_S)
    inverse_S[order_S] = torch.arange(N * k, device=order_S.device)
    rows = _Rows(order_S, k, _cells(expert_S, order_S // (N * k // use.seats), use.seats, site.block.n_experts))
    x_SD = _Spread.apply(x_ND, order_S, inverse_S, k)
    y_SD = _through(site.block.experts, x_SD, _runs(expert_S, site.block.n_experts), rows, inside)
    y_NkD = _Reorder.apply(y_SD, inverse_S, order_S).view(N, k, y_SD.shape[1])
    return (y_NkD * weight_Nk[..., None]).sum(1).to(x_ND.dtype)


@dataclass(frozen=True, eq=False)
class _Rows:
    """How the sorted rows came from the tokens, and whose they are."""

    order_S: Tensor
    k: int
    cells: Cells


@dataclass(frozen=True, eq=False)
class _Inside:
    """A part that is in use."""

    name: str
    options: Routed
    tensors: State
    use: Use

    def low(self, rows: _Rows, name: str, x_SX: Tensor) -> Tensor:
        """scale·B·A·x of one projection, [S, Y]."""
        a_KERX, b_KEYR = (self.tensors[f"{name}_{side}"].to(x_SX.dtype) for side in "ab")
        low_SR = _Own.apply(x_SX, a_KERX, rows.cells)
        return self.options.alpha / self.options.rank * _Own.apply(low_SR, b_KEYR, rows.cells)

    def dropped(self, rows: _Rows, x_SX: Tensor, every: bool) -> Tensor:
        """The adapters' input after dropout; what is masked is a token, or with `every` each of its k rows by itself.

        A seat's masks come from its own generator alone, token by token, whatever the order here.
        """
        p, use, each = self.options.dropout, self.use, rows.k if every else 1
        if p == 0 or use.dropout is None or self.name not in use.train:
            return x_SX
        tokens = len(x_SX) // rows.k // use.seats
        width = max(use.widths) if use.widths else tokens
        ones = x_SX.new_ones(use.seats * (tokens // width), width, each * x_SX.shape[1])
        mask = use.dropped(frozenset({self.name}), p, ones).view(-1, x_SX.shape[1])
        return x_SX * mask[rows.order_S if every else rows.order_S // rows.k]


def _through(e: Any, x_SD: Tensor, runs: Any, rows: _Rows, inside: list[_Inside]) -> Tensor:
    """Each expert, with each seat's adapters, over its own rows, [S, D]."""
    h_SH = _linear(e, f"{entry(e)}_proj", x_SD, runs)
    for part in inside:
        h_SH = h_SH + fused(e, partial(part.low, rows), part.dropped(rows, x_SD, every=False))
    h_SI = activated(e, h_SH)
    y_SD = _linear(e, "down_proj", h_SI, runs)
    for part in inside:
        y_SD = y_SD + part.low(rows, "down", part.dropped(rows, h_SI, every=True))
    return normed(e, y_SD)


def _cells(expert_S: Tensor, seat_S: Tensor, K: int, E: int) -> Cells:
    ends = torch.bincount(expert_S * K + seat_S, minlength=E * K)[: E * K].cumsum(0).tolist()
    pairs = enumerate(zip([0, *ends], ends, strict=False))
    return [(cell % K, cell // K, start, end) for cell, (start, end) in pairs if end > start]


class _Own(torch.autograd.Function):
    """x @ weight[seat, expert]ᵀ for each cell of rows, with gradients for both; rows of no cell are zero."""

    @staticmethod
    def forward(ctx, x_SX, weight_KEYX, cells):
        ctx.save_for_backward(x_SX, weight_KEYX)
        ctx.cells = cells
        out_SY = x_SX.new_zeros(len(x_SX), weight_KEYX.shape[2])
        for seat, expert, start, end in cells:
            torch.mm(x_SX[start:end], weight_KEYX[seat, expert].t(), out=out_SY[start:end])
        return out_SY

    @staticmethod
    def backward(ctx, grad_SY):  # pyright: ignore[reportIncompatibleMethodOverride]
        x_SX, weight_KEYX = ctx.saved_tensors
        grad_x, grad_weight = torch.zeros_like(x_SX), None
        for seat, expert, start, end in ctx.cells:
            torch.mm(grad_SY[start:end], weight_KEYX[seat, expert], out=grad_x[start:end])
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight_KEYX)
            for seat, expert, start, end in ctx.cells:
                torch.mm(grad_SY[start:end].t(), x_SX[start:end], out=grad_weight[seat, expert])
        return grad_x, grad_weight, None


def _below(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _options(part: Part) -> Routed:
    assert isinstance(part.config, Routed)
    return part.config
