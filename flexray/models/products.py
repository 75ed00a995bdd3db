"""Products of groups of rows, each group with a matrix of its own, by the kernel that suits their number and shape.

Shape suffixes: G matrices, R rows, X width of what is multiplied, Y width of what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Literal["loop", "even", "grouped"]
WORTH = 1 << 20
"""Multiplications in float32 from which on oneDNN's 10 µs a call pay."""
DEEP = 64
"""Rows from which on they pay in a sum over rows."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The rows from `start` to before `stop`.

    loop: `runs` of (matrix, rows, whether the matrix has had rows before), one product each. even: the matrices from `first`
    to before `last`, with equally many rows each, in one batched product. grouped: the same matrices; the rows of each end
    where `ends_G` says (int32, on the device, counted from `start`), so that the host need not know.
    """

    kernel: Kernel
    start: int
    stop: int
    runs: tuple[tuple[int, int, bool], ...] = ()
    first: int = 0
    last: int = 0
    ends_G: Tensor | None = None

    def own(self, matrices_GXY: Tensor) -> Tensor:
        """Those from first to before last."""
        whole = self.last - self.first == len(matrices_GXY)  # autograd would copy a slice
        return matrices_GXY if whole else matrices_GXY[self.first : self.last]

    def loop(self, one: Tensor, two: Tensor) -> Iterator[tuple[int, bool, Tensor, Tensor]]:
        """Each run's matrix, whether that is not its first rows, and its rows of both."""
        sizes = [rows for _, rows, _ in self.runs]
        for (g, _, later), x, y in zip(self.runs, one.split(sizes), two.split(sizes), strict=True):
            yield g, later, x, y


def product(x_RX: Tensor, weight_GXY: Tensor, groups: Groups, out: Tensor | None = None) -> Tensor:
    """Each row times its group's matrix, [R, Y], into `out` if there is one; x holds the groups' rows alone."""
    if groups.kernel == "loop":
        return _loop(x_RX, weight_GXY, groups, out)
    own_GXY = groups.own(weight_GXY)
    if groups.kernel == "grouped":
        y_RY = F.grouped_mm(x_RX, own_GXY, offs=groups.ends_G)
    else:
        y_RY = torch.bmm(x_RX.view(len(own_GXY), -1, x_RX.shape[1]), own_GXY).flatten(0, 1)
    return y_RY if out is None else out.copy_(y_RY)


def _loop(x_RX: Tensor, weight_GXY: Tensor, groups: Groups, out: Tensor | None) -> Tensor:
    Y = weight_GXY.shape[2]
    if out is None and len(groups.runs) == 1 and _pays(x_RX, Y):
        return _onednn(x_RX, weight_GXY[groups.runs[0][0]])
    out = x_RX.new_empty(len(x_RX), Y) if out is None else out
    for g, _, x, y in groups.loop(x_RX, out):
        if _pays(x, Y):
            y.copy_(_onednn(x, weight_GXY[g]))
        else:
            torch.mm(x, weight_GXY[g], out=y)
    return out


def outers(parts: Iterable[tuple[Tensor, Tensor]], groups: tuple[Groups, ...], like: Tensor) -> Tensor:
    """The sum of xᵀy over each group's rows, shaped as `like`; `parts` are x and y of each of `groups`."""
    total: Tensor | None = None
    for (x_RX, y_RY), one in zip(parts, groups, strict=True):
        total = outer(x_RX, y_RY, one, total, like)
    return without_idle(total, groups, like)


def outer(x_RX: Tensor, y_RY: Tensor, groups: Groups, total_GXY: Tensor | None, like: Tensor) -> Tensor:
    """`total` with the sum of xᵀy over each group's rows put in or added; memory as it comes, if there is no total yet."""
    if groups.kernel == "grouped" and total_GXY is None and groups.last - groups.first == len(like):
        return _outer_grouped(x_RX, y_RY, groups)
    sum_GXY: Tensor = torch.empty_like(like) if total_GXY is None else total_GXY
    own_GXY = groups.own(sum_GXY)
    if groups.kernel == "grouped":
        own_GXY.copy_(_outer_grouped(x_RX, y_RY, groups))
    elif groups.kernel == "even":
        G = len(own_GXY)
        torch.bmm(x_RX.view(G, -1, x_RX.shape[1]).mT, y_RY.view(G, -1, y_RY.shape[1]), out=own_GXY)
    else:
        for g, later, x, y in groups.loop(x_RX, y_RY):
            _put_outer(x.t(), y, sum_GXY[g], later)
    return sum_GXY


def _put_outer(x_XR: Tensor, y_RY: Tensor, out_XY: Tensor, later: bool) -> None:
    if len(y_RY) >= DEEP and _pays(x_XR, y_RY.shape[1]):
        sum_XY = _onednn(x_XR, y_RY)
        out_XY.add_(sum_XY) if later else out_XY.copy_(sum_XY)
    elif later:
        out_XY.addmm_(x_XR, y_RY)
    else:
        torch.mm(x_XR, y_RY, out=out_XY)


def without_idle(total_GXY: Tensor | None, groups: tuple[Groups, ...], like: Tensor) -> Tensor:
    """`total` with zeros for matrices that had no rows."""
    if total_GXY is None:
        return torch.zeros_like(like)
    busy = {g for one in groups for g in (*range(one.first, one.last), *(run[0] for run in one.runs))}
    for g in set(range(len(like))) - busy:
        total_GXY[g] = 0
    return total_GXY


def _outer_grouped(x_RX: Tensor, y_RY: Tensor, groups: Groups) -> Tensor:
    end_G = groups.ends_G
    assert end_G is not None
    sum_GXY = F.grouped_mm(x_RX.t(), y_RY, offs=end_G)
    if end_G.device.type == "cpu":
        return sum_GXY
    idle_G = end_G.diff(prepend=end_G.new_zeros(1)) == 0  # a GPU writes nothing for these
    return sum_GXY.masked_fill_(idle_G[:, None, None], 0)


def _pays(x: Tensor, Y: int) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() * Y >= WORTH and onednn_is_quicker()


def _onednn(x: Tensor, weight_XY: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight_XY.t(), None, "none", [], "")


@cache
def onednn_is_quicker() -> bool:
    """Whether float32 is worth a detour round MKL, which keeps its AVX-512 kernels to Intel's processors."""
    has = torch.cpu.get_capabilities()
    wide = has.get("avx512_f", False) and "Intel" not in str(has.get("cpu_name", "Intel"))
    return wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
