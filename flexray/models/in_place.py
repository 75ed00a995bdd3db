"""Grafted experts in place: no expert is added; where the router picks the pretrained one, the client's own answers instead.

Shape suffixes: K seats, G grafted experts, N flat tokens, n those of them that picked an expert, k experts per token, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexray.models.family import Block
from flexray.models.grafted import grafted, stored
from flexray.parts import Graft
from flexray.state import State

Routed = tuple[Tensor, Tensor, Tensor]
"""What a block's experts are given, ordered by seat: tokens [N, D], indices [N, k], weights [N, k]."""


@dataclass(frozen=True, eq=False)
class Stood:
    """One own expert E' of every seat: the tokens whose router picked the expert i that it stands for, no token twice."""

    row_n: Tensor
    """Their places among the N tokens."""
    left_nD: Tensor
    """w·E_i, what the pretrained expert gives them."""
    change_nD: Tensor
    """w·(E' − E_i)."""


def in_place(block: Block, tensors: State, graft: Graft, seats: int, y_ND: Tensor, routed: Routed) -> Tensor:
    """The routed output y + w_i(x)·(E'(x) − E_i(x)) for tokens x that picked i with weight w_i; of other tokens, y itself.

    `tensors` are the block's, as for `grafted`. What starts as a copy starts at y, up to rounding.
    """
    for stood in stand_ins(block, tensors, graft, seats, routed):
        y_ND = y_ND.index_add(0, stood.row_n, stood.change_nD.to(y_ND.dtype))
    return y_ND


def stand_ins(block: Block, tensors: State, graft: Graft, seats: int, routed: Routed, bare: bool = False) -> Iterator[Stood]:
    """All that happens in place, for g = 0 … G − 1; `left_nD` only if `bare` or computed anyway, else zero."""
    size = len(routed[0]) // seats
    for g in range(graft.experts):
        each = [
            _of_seat(block, tensors, graft, (k, g), [t[k * size : (k + 1) * size] for t in routed], bare) for k in range(seats)
        ]
        rows = torch.cat([k * size + stood.row_n for k, stood in enumerate(each)])
        yield Stood(rows, torch.cat([s.left_nD for s in each]), torch.cat([s.change_nD for s in each]))


def _of_seat(block: Block, tensors: State, graft: Graft, at: tuple[int, int], routed: list[Tensor], bare: bool) -> Stood:
    """One seat's expert `at` (k, g), and its tokens."""
    x_ND, index_Nk, weight_Nk = routed
    k, g = at
    i = int(tensors["index"][k, g])
    row_n, slot_n = (index_Nk == i).nonzero(as_tuple=True)
    x_1nD, weight_n1 = x_ND.index_select(0, row_n)[None], weight_Nk[row_n, slot_n, None]
    own = {name: t[k : k + 1, g : g + 1] for name, t in tensors.items()}
    frozen = {name: t[i][None, None] for name, t in stored(block.experts).items()}
    left_nD = torch.zeros_like(x_1nD[0])
    if graft.train == "full" or bare:
        left_nD = weight_n1 * grafted(block, frozen, x_1nD, replace(graft, train="full"))[0, 0]
    if graft.train == "full":
        return Stood(row_n, left_nD, weight_n1 * grafted(block, own, x_1nD, graft)[0, 0] - left_nD)
    # E + LoRA − E as one: exactly zero at B = 0.
    return Stood(row_n, left_nD, weight_n1 * grafted(block, own, x_1nD, replace(graft, start="identity"))[0, 0])
