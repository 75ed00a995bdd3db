"""Tokens sorted by expert: which row is whose, and how rows come together again as tokens.

Shape suffixes: N flat tokens, k experts per token, S = N·k pairs of token and expert, P those that have an expert, E experts,
R rows (the pairs, sorted by expert, with room between them where a kernel wants it), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flexray.models.grouping import Layout, exact, layout
from flexray.models.products import Groups


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of room hold some token's values and are nobody's: what they give is not read, and has no gradient."""

    index_Nk: Tensor
    experts: int
    pair_R: Tensor
    """The pair (token · k + choice) of each row."""
    token_R: Tensor
    row_S: Tensor
    """The row of each pair; R for a pair without expert."""
    order_P: Tensor
    """The pairs that have an expert, sorted by it."""
    groups: tuple[Groups, ...]
    host: bool = True
    """Whether products happen on a CPU."""
    absent_Nk: Tensor | None = None
    """Where no expert is meant although there is a row for one: its weight must be zero."""

    @property
    def whole(self) -> bool:
        """Whether every pair has a row."""
        return len(self.order_P) == len(self.row_S)

    @cached_property
    def small(self) -> bool:
        """Whether all goes through one batched or grouped product on the host, so little that every further call counts."""
        return self.host and len(self.groups) == 1 and self.groups[0].kernel != "loop"

    @cached_property
    def expert_R(self) -> Tensor:
        return self.index_Nk.flatten().index_select(0, self.pair_R).clamp_(max=self.experts - 1)

    @cached_property
    def place_P(self) -> Tensor:
        """The row of each sorted pair."""
        return self.row_S.index_select(0, self.order_P)

    def each(self, like_ND: Tensor, run: Callable[[Groups, Tensor | None], Tensor]) -> Tensor:
        """[R, D] and, for pairs without a row, one of zeros: `run(groups, out)` of all groups."""
        if len(self.groups) == 1 and self.whole:
            return run(self.groups[0], None)
        out = like_ND.new_empty(len(self.pair_R) + (not self.whole), like_ND.shape[1])
        out[len(self.pair_R) :] = 0
        for groups in self.groups:
            run(groups, out[groups.start : groups.stop])
        return out

    def combined(self, y_RD: Tensor, weight_Nk: Tensor | None = None) -> Tensor:
        """The sum over each token's rows, weighted or not, [N, D], in a fixed order and added up in float32 at least."""
        N, k = self.index_Nk.shape
        if not N * k:
            return y_RD.new_zeros(N, y_RD.shape[1])
        if not self.host:
            y_NkD = y_RD.index_select(0, self.row_S).view(N, k, -1)
            return (y_NkD if weight_Nk is None else y_NkD * weight_Nk[..., None]).sum(1).to(y_RD.dtype)
        if self.small and y_RD.dtype == torch.float32:
            return self._added(y_RD, weight_Nk)
        row_Nk = self.row_S.view(N, k)
        if weight_Nk is None or weight_Nk.element_size() <= y_RD.element_size():
            return _bags(y_RD, row_Nk, weight_Nk)
        near_Nk = weight_Nk.to(y_RD.dtype)  # finer weights go in two parts: this sum wants one dtype
        return _bags(y_RD, torch.cat([row_Nk, row_Nk], 1), torch.cat([near_Nk, weight_Nk - near_Nk], 1))

    def _added(self, y_RD: Tensor, weight_Nk: Tensor | None) -> Tensor:
        """By few calls, in the order of the experts, where rows are pairs."""
        y_PD = y_RD if self.whole else y_RD[: len(self.order_P)]
        if weight_Nk is not None:
            y_PD = y_PD * weight_Nk.to(y_PD.dtype).flatten().index_select(0, self.order_P)[:, None]
        return y_PD.new_zeros(len(self.index_Nk), y_PD.shape[1]).index_add(0, self.token_R, y_PD)

    def weights(self, weight_Nk: Tensor) -> Tensor:
        """The weight of each row, [R, 1]; zero where there is room."""
        R = len(self.pair_R)
        return weight_Nk.new_zeros(R + 1).scatter_(0, self.row_S, weight_Nk.flatten())[:R, None]

    def pairs(self, value_R: Tensor) -> Tensor:
        """What each pair has of a value per row, [N, k]; the last value is that of pairs without expert, unless `whole`."""
        return value_R.index_select(0, self.row_S).view(self.index_Nk.shape)


def _bags(y_RD: Tensor, row_Nk: Tensor, weight_Nk: Tensor | None) -> Tensor:
    """The weighted sums of rows, without ever holding [N, k, D]."""
    start_N = torch.arange(0, row_Nk.numel(), row_Nk.shape[1])
    weight_S = None if weight_Nk is None else weight_Nk.to(y_RD.dtype).flatten()
    return torch.embedding_bag(y_RD, row_Nk.flatten(), start_N, False, 0, False, weight_S)[0]


def sorted_rows(index_Nk: Tensor, experts: int, like: Tensor, H: int, I: int) -> Rows:  # noqa: E741
    """For products of `like`'s dtype and device with matrices [D, H] and [I, D]; an index from E on means no expert."""
    device, D = index_Nk.device, like.shape[1]
    if device.type == "cpu":
        return _on_host(index_Nk, experts, lambda counts_E: layout(counts_E, like.dtype, D, H, I, groupable(like, D, H, I)))
    if groupable(like, D, H, I):
        return _on_device(index_Nk, experts)
    found = _on_host(index_Nk.cpu(), experts, exact)
    pair_R, token_R, row_S, order_P = (t.to(device) for t in (found.pair_R, found.token_R, found.row_S, found.order_P))
    return Rows(index_Nk, experts, pair_R, token_R, row_S, order_P, found.groups, host=False)


def groupable(like: Tensor, *widths: int) -> bool:
    """Whether there is a grouped kernel worth having: on a GPU it reads on the device where groups end."""
    wanted = torch.float32 if like.device.type == "cpu" else torch.bfloat16
    return like.dtype == wanted and not any(width * like.element_size() % 16 for width in widths)


def cells(rows: Rows, seats: int, grouped: bool) -> tuple[Groups, ...]:
    """The sorted pairs in groups by expert and, within it, by seat, each seat having equally many tokens."""
    expert_P = rows.index_Nk.flatten().index_select(0, rows.order_P).clamp_(max=rows.experts - 1)
    cell_P = expert_P * seats + rows.order_P // max(len(rows.row_S) // seats, 1)
    if grouped and not rows.host:
        return (_grouped(cell_P, rows.experts * seats),)
    return exact(np.bincount(cell_P.cpu().numpy(), minlength=rows.experts * seats), grouped).groups


def _on_device(index_Nk: Tensor, E: int) -> Rows:
    """Without asking the device for a number. Pairs without expert go to the last one."""
    absent_Nk = index_Nk >= E
    expert_S, order_S = index_Nk.clamp(max=E - 1).flatten().sort(stable=True)
    row_S = torch.empty_like(order_S).scatter_(0, order_S, torch.arange(len(order_S), device=order_S.device))
    token_S, groups = order_S // index_Nk.shape[1], (_grouped(expert_S, E),)
    return Rows(index_Nk, E, order_S, token_S, row_S, order_S, groups, host=False, absent_Nk=absent_Nk)


def _grouped(group_R: Tensor, count: int) -> Groups:
    """Of rows that are sorted by group, without asking the device for a number."""
    end_G = torch.searchsorted(group_R, torch.arange(count, device=group_R.device), right=True, out_int32=True)
    return Groups("grouped", 0, len(group_R), first=0, last=count, ends_G=end_G)


def _on_host(index_Nk: Tensor, E: int, choose: Callable[[np.ndarray], Layout]) -> Rows:
    index_S = index_Nk.numpy().ravel()
    count_E = np.bincount(index_S, minlength=E)
    order_S = index_S.astype(np.int16).argsort(kind="stable")  # of int16: a radix sort
    order_P = order_S if len(count_E) == E else order_S[: int(count_E[:E].sum())]
    chosen = choose(count_E[:E])
    R, P = chosen.rows, len(order_P)
    place_P, pair_R = np.arange(P), order_P
    if R > P:
        place_P, pair_R = _places(count_E[:E], chosen), np.zeros(R, np.int64)
        pair_R[place_P] = order_P
    row_S = np.full(len(index_S), R)
    row_S[order_P] = place_P
    pair, token, row, order = (torch.from_numpy(a) for a in (pair_R, pair_R // index_Nk.shape[1], row_S, order_P))
    return Rows(index_Nk, E, pair, token, row, order, chosen.groups)


def _places(count_E: np.ndarray, chosen: Layout) -> np.ndarray:
    """The row of each sorted pair: an expert's first rows are in its batch, the others in its runs."""
    batch_E, runs_E = np.zeros_like(count_E), np.full_like(count_E, -1)
    for groups in chosen.groups:
        if groups.kernel == "even":
            batch_E[groups.first : groups.last] = np.arange(groups.start, groups.stop, chosen.even)
        start = groups.start
        for e, rows, _ in groups.runs:
            runs_E[e] = start if runs_E[e] < 0 else runs_E[e]
            start += rows
    rank_P = np.arange(count_E.sum()) - np.repeat(count_E.cumsum() - count_E, count_E)
    later_P = rank_P - chosen.even
    return np.where(later_P < 0, np.repeat(batch_E, count_E) + rank_P, np.repeat(runs_E, count_E) + later_P)
