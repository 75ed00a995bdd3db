"""Updates made smaller: what is left of a change when it arrives, and how many bytes it was.

int8: one scale per tensor, with stochastic rounding without bias (QSGD, Alistarh et al. 2017, arXiv 1610.02132). Top-k with error
feedback: Stich et al. 2018, arXiv 1809.07599.
"""

from __future__ import annotations

from collections import Counter
from math import ceil

import numpy as np
import torch

from flexray.sections_privacy import Compress
from flexray.sim.wire import BYTES, Place, Wire
from flexray.state import part_of

ROUNDING = 0x0DD5
"""What random numbers are for, as a key of theirs."""
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Codec:
    """Of one method's updates. Indices, and `aux` where it is not of the form of what is sent (counts, names of experts), cross as
    they are."""

    def __init__(self, told: Compress, up: Wire, aux: bool):
        self.told, self.up = told, up
        self.small = [p for p in up.places if p.trained and (aux or not p.aux)]

    def squeeze_(self, change: np.ndarray, rng: np.random.Generator) -> None:
        """A change [P] becomes what arrives of it."""
        for place in self.small:
            self._tensor(change[place.start : place.stop], rng)

    def cost(self) -> dict[str, int]:
        """Bytes that cross, by part."""
        small, found = {p.name for p in self.small}, Counter[str]()
        for place in self.up.places:
            size = self._bytes(place) if place.name in small else BYTES * (place.stop - place.start)
            found[part_of(place.name)] += size
        return dict(found)

    def _tensor(self, values: np.ndarray, rng: np.random.Generator) -> None:
        if self.told.kind == "int8":
            _int8(values, rng if self.told.rounding == "stochastic" else None)
        elif self.told.kind == "topk":
            _top(values, self._kept(len(values)))
        else:
            _half(values, HALF[self.told.kind])

    def _bytes(self, place: Place) -> int:
        """Of one tensor. What is kept of top-k is told by its places or, if that is less, by a bit for every number."""
        n = place.stop - place.start
        if self.told.kind == "topk":
            return BYTES * self._kept(n) + min(BYTES * self._kept(n), ceil(n / 8))
        return n + BYTES if self.told.kind == "int8" else 2 * n

    def _kept(self, n: int) -> int:
        return max(1, ceil(self.told.keep * n))


def _half(values: np.ndarray, kind: torch.dtype) -> None:
    """Rounded to 16 bits; what is too large for them is the largest there is."""
    most, t = torch.finfo(kind).max, torch.from_numpy(values)
    t.copy_(t.clamp(-most, most).to(kind))


def _int8(values: np.ndarray, rng: np.random.Generator | None) -> None:
    """−127 to 127 times a scale; without a generator to the nearest."""
    scale = np.float32(np.abs(values).max(initial=0)) / np.float32(127)
    if scale > 0:
        steps = values / scale
        steps = np.rint(steps) if rng is None else np.floor(steps + rng.random(len(values), np.float32))
        values[:] = np.clip(steps, -127, 127) * scale


def _top(values: np.ndarray, keep: int) -> None:
    """All but the largest by size become zero."""
    if keep < len(values):
        values[np.argpartition(np.abs(values), len(values) - keep)[: len(values) - keep]] = 0
