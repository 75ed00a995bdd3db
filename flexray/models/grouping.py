"""Which kernel multiplies which rows: a pure rule of the experts' loads and shapes, so that equal inputs give equal bits.

Costs are microseconds of one thread of a CPU with AVX-512, measured; only their ratios matter.
Shape suffixes: E experts, B candidate batch heights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from flexray.models.products import WORTH, Groups, onednn_is_quicker

PIECE = 1024
"""Rows, per thread, that go through the whole expert together: what lies between two products stays in the cache."""
EVEN_B = np.array([0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256])
"""Heights of a batched product. 0: none."""
CALL, BATCH, GROUPED, ROUND = 18.0, 40.0, 3.0, 7.0
"""Of one product by oneDNN, of a batched one, within a grouped one, and of one by MKL in a Python loop."""
SINGLE, QUICK, HALF = 45e3, 96e3, 200e3
"""Multiplications per µs: MKL and oneDNN in float32, oneDNN in bfloat16."""
WIDE, FINE, COARSE = 1 << 19, 4, 8
"""Multiplications per row from which on heights go by 4 instead of 8."""
FEW = 4
"""Experts with rows up to which batches are not worth a thought."""
LOAD = 30
"""Rows whose product takes as long as reading and packing the matrix, in bfloat16."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Groups of rows, one after another. The first `even` rows of each expert lie in batches, the rest after them."""

    groups: tuple[Groups, ...]
    even: int = 0

    @property
    def rows(self) -> int:
        return self.groups[-1].stop if self.groups else 0


def exact(counts_E: np.ndarray, grouped: bool = False) -> Layout:
    """Rows for those experts that have some, and none between them; a loop over them, or grouped."""
    return Layout(tuple(_grouped(counts_E) if grouped else _loops(counts_E, lambda n: [n])))


def layout(counts_E: np.ndarray, dtype: torch.dtype, D: int, H: int, I: int, groupable: bool) -> Layout:  # noqa: E741
    """For experts [D, H] and [I, D] on a CPU; groups may have more rows than the experts' counts, never less."""
    mean = D * (H + I) / 2
    if dtype in (torch.bfloat16, torch.float16):
        return _half(counts_E, mean)
    if dtype == torch.float32:
        return _single(counts_E, mean, groupable)
    return exact(counts_E)


def _half(counts_E: np.ndarray, mean: float) -> Layout:
    """Every call of oneDNN is dear, so small experts go together, and what large ones have above that by itself."""
    if np.count_nonzero(counts_E) <= FEW:
        return Layout(tuple(_loops(counts_E, _tiles(mean))))
    row, E, piece = mean / HALF, len(counts_E), _piece()
    height_B = EVEN_B[: int(np.searchsorted(EVEN_B, counts_E.max())) + 1]
    above_BE = counts_E - height_B[:, None]
    loops_B = (CALL + LOAD * row) * (above_BE > 0).sum(1) + row * np.maximum(above_BE, 0).sum(1)
    even_B = (height_B > 0) * ((LOAD + height_B) * E * row + BATCH * (1 + E * height_B // piece))
    even = int(height_B[int(np.argmin(loops_B + even_B))])
    batches = _batches(counts_E, even, piece) if even else []
    start = batches[-1].stop if batches else 0
    return Layout((*batches, *_loops(np.maximum(counts_E - even, 0), _tiles(mean), start, even > 0)), even)


def _batches(counts_E: np.ndarray, even: int, piece: int) -> list[Groups]:
    """As many experts in one as a piece has room for, a power of two; none where nobody has rows."""
    step = 1 << max(0, (piece // even).bit_length() - 1)
    found: list[Groups] = []
    for first in range(0, len(counts_E), step):
        last = min(first + step, len(counts_E))
        if counts_E[first:last].any():
            start = found[-1].stop if found else 0
            found.append(Groups("even", start, start + (last - first) * even, first=first, last=last))
    return found


def _single(counts_E: np.ndarray, mean: float, groupable: bool) -> Layout:
    """MKL for small products, all in one grouped call where that may be; oneDNN, if it is quicker, for large ones."""
    quick = onednn_is_quicker() and counts_E.max(initial=0) * mean >= 4 * WORTH
    if groupable and not (quick and _looping_pays(counts_E, mean)):
        return exact(counts_E, True)
    tiles = _tiles(mean)
    return Layout(tuple(_loops(counts_E, lambda n: tiles(n) if quick and n * mean >= WORTH else [n])))


def _looping_pays(counts_E: np.ndarray, mean: float) -> bool:
    work = counts_E[counts_E > 0] * (mean / SINGLE)
    in_loop = np.minimum(work + ROUND, work * (SINGLE / QUICK) + CALL).sum() + BATCH * (counts_E.sum() // _piece())
    return bool(in_loop < work.sum() + GROUPED * len(work))


def _grouped(counts_E: np.ndarray) -> list[Groups]:
    """Neighbours together up to a piece."""
    end_E = counts_E.cumsum()
    found: list[Groups] = []
    first, start, piece, E = 0, 0, _piece(), len(counts_E)
    while first < E and start < end_E[-1]:
        last = E if end_E[-1] - start <= piece else max(first + 1, int(np.searchsorted(end_E, start + piece, "right")))
        end = int(end_E[last - 1])
        if end > start:
            ends_G = torch.from_numpy((end_E[first:last] - start).astype(np.int32))
            found.append(Groups("grouped", start, end, first=first, last=last, ends_G=ends_G))
        first, start = last, end
    return found


def _loops(counts_E: np.ndarray, cut: Callable[[int], list[int]], start: int = 0, later: bool = False) -> list[Groups]:
    """Each expert's rows as `cut` has them; neighbours together up to a piece."""
    runs = [(e, rows, later or i > 0) for e, n in enumerate(counts_E.tolist()) if n for i, rows in enumerate(cut(n))]
    found, own, stop, piece = [], [], start, _piece()
    for run in runs:
        if own and stop + run[1] - start > piece:
            found.append(Groups("loop", start, stop, tuple(own)))
            start, own = stop, []
        own.append(run)
        stop += run[1]
    return [*found, Groups("loop", start, stop, tuple(own))] if own else found


def _tiles(mean: float) -> Callable[[int], list[int]]:
    """Rows in few different heights, since oneDNN compiles a kernel (0.4 ms) for each that it has not seen."""

    def cut(n: int) -> list[int]:
        full, rest = divmod(n, PIECE)
        step = max(FINE if mean >= WIDE else COARSE, (1 << rest.bit_length()) >> 5)
        return [PIECE] * full + ([-(-rest // step) * step] if rest else [])

    return cut


def _piece() -> int:
    return PIECE * torch.get_num_threads()
