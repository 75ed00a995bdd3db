"""What parts cost, by the clock: a forward with K + 1 experts against one with K.

Shape suffixes: N rows, T tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flexray.models.seats import Seats
from flexray.parts import Part
from flexray.state import State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone


@dataclass(frozen=True)
class Latency:
    """Seconds of single forwards, measured in turn: of the frozen model, and with the parts in force."""

    frozen: tuple[float, ...]
    adapted: tuple[float, ...]

    @property
    def increase(self) -> float:
        """Of the medians, relative to the frozen one."""
        return median(self.adapted) / median(self.frozen) - 1


def latency(backbone: Backbone, parts: tuple[Part, ...], ids_NT: Tensor, repetitions: int = 20) -> Latency:
    """Measures one client's forward of these rows with its parts against the frozen model's.

    Values are random, and grafts are cut from the first experts. The two take turns, each going first every other time;
    a first turn is not counted.
    """
    seats = Seats(backbone, parts, 1)
    seats.put(_random(seats))
    starts_N = torch.ones(len(ids_NT), dtype=torch.int64, device=ids_NT.device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for i in range(repetitions + 1):
        for on in (False, True) if i % 2 else (True, False):
            with seats.using(None if on else (), starts=starts_N):
                seconds[on].append(_seconds(backbone, ids_NT))
    seats.detach()
    return Latency(tuple(seconds[False][1:]), tuple(seconds[True][1:]))


def _random(seats: Seats) -> State:
    generator = torch.Generator().manual_seed(0)
    shapes = {name: (1, *shape) for name, shape in seats.shapes.items()}
    values = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return values | {name: torch.arange(shape[1])[None] for name, shape in shapes.items() if name.endswith("/index")}


def _seconds(backbone: Backbone, ids_NT: Tensor) -> float:
    wait = torch.cuda.synchronize if backbone.device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    with torch.no_grad():
        backbone.model(input_ids=ids_NT, use_cache=False)
    wait()
    return time.perf_counter() - started
