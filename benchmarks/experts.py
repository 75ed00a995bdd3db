"""The experts' forward and backward against transformers' own: eager, batched_mm and grouped_mm.

    python -m benchmarks.experts [--quick] [--threads 1] [--only tiny middle large] [--dtype float32 bfloat16] [--turns 5]
                                 [--clock wall] [--picture benchmarks/pictures/experts]

One layer of Qwen2-MoE experts with random weights, frozen and trained, on the CPU. Outputs and gradients of all are compared
first. Then turn by turn in one process, in an order drawn anew for each turn, every contestant takes the same steps, each step
with tokens and routing of its own as in training; as many a turn as give the quickest 20 ms. Turns before the clock starts let
everybody's kernels be compiled. A contestant is left out (–) where it would copy too much: batched_mm copies a matrix per
token and expert, eager's backward makes a gradient of all experts' size for every expert. `--clock cpu` counts processor time,
with one thread a fair clock on a busy machine. Takes about 8 minutes, `--quick` less than one.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import panels, pictures
from benchmarks.common import machine, table
from flexray.models.experts import NAME, RECOMPUTE, register

THEIRS = ("eager", "batched_mm", "grouped_mm")
OURS = (NAME, RECOMPUTE)
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
LONGEST = 1 << 30
"""Bytes of copies from which on a contestant is left out."""
HOPELESS = 10
"""Times the quickest one's time from which on one step of a contestant is enough."""


@dataclass(frozen=True)
class Shape:
    """Experts, how many of them a token gets, width, expert width, tokens. skewed: a third of the experts gets no token."""

    size: str
    experts: int
    chosen: int
    width: int
    inner: int
    tokens: int
    skewed: bool = False

    def __str__(self) -> str:
        skew = ", skewed" if self.skewed else ""
        return f"{self.experts}/{self.chosen}, {self.width}×{self.inner}, {self.tokens} tokens{skew}"


SHAPES = (
    Shape("tiny", 8, 2, 128, 128, 100),
    Shape("tiny", 64, 8, 128, 128, 100),
    Shape("tiny", 64, 8, 128, 128, 100, skewed=True),
    Shape("tiny", 8, 2, 128, 128, 1000),
    Shape("tiny", 16, 4, 128, 128, 4000),
    Shape("middle", 16, 4, 512, 256, 500),
    Shape("middle", 16, 4, 512, 256, 500, skewed=True),
    Shape("middle", 8, 2, 512, 256, 2000),
    Shape("middle", 64, 8, 512, 256, 2000),
    Shape("large", 60, 4, 1024, 768, 500),
    Shape("large", 8, 2, 1024, 1408, 2000),
    Shape("large", 8, 2, 1024, 1408, 2000, skewed=True),
    Shape("large", 16, 4, 2048, 768, 1000),
    Shape("large", 16, 4, 1024, 768, 4000),
)
QUICK = (SHAPES[0], SHAPES[1], SHAPES[3], SHAPES[5], SHAPES[7])


@dataclass(frozen=True)
class Row:
    """Milliseconds of a forward and backward by contestant; None for those left out."""

    shape: Shape
    dtype: str
    trained: bool
    ms: dict[str, float | None]

    @property
    def ratio(self) -> float:
        """The time of the best of theirs over ours."""
        return min(t for name in THEIRS if (t := self.ms[name]) is not None) / (self.ms[NAME] or 1)


def rows(shapes: tuple[Shape, ...], dtypes: list[str], both: bool, turns: int, clock: str) -> Iterator[Row]:
    """One after another, as they are measured."""
    register()
    for shape in shapes:
        for dtype in dtypes:
            for trained in (False, True) if both else (False,):
                yield _row(shape, dtype, trained, turns, CLOCKS[clock])


class _Layer:
    """The contestants' common experts."""

    def __init__(self, shape: Shape, dtype: str, trained: bool):
        from transformers import Qwen2MoeConfig
        from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

        self.shape, self.dtype, self.trained = shape, getattr(torch, dtype), trained
        config = Qwen2MoeConfig(
            hidden_size=shape.width,
            num_experts=shape.experts,
            num_experts_per_tok=shape.chosen,
            moe_intermediate_size=shape.inner,
        )
        self.experts: Any = Qwen2MoeExperts(config).to(self.dtype).requires_grad_(trained)
        generator = torch.Generator().manual_seed(0)
        for p in self.experts.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float32) * p.shape[-1] ** -0.5)

    def contestants(self) -> list[str]:
        copies = self.shape.tokens * self.shape.chosen * 3 * self.shape.width * self.shape.inner * self.dtype.itemsize
        whole = self.shape.experts * sum(p.nbytes for p in self.experts.parameters())
        left_out = ({"batched_mm"} if copies > LONGEST else set()) | (
            {"eager"} if self.trained and whole > 4 * LONGEST else set()
        )
        return [name for name in (*THEIRS, *OURS) if name not in left_out]

    def given(self, seed: int) -> tuple[Tensor, ...]:
        """Tokens, choices, routing weights and the gradient that comes back."""
        s, generator = self.shape, torch.Generator().manual_seed(seed)
        x_ND, grad_ND = (torch.randn(s.tokens, s.width, generator=generator).to(self.dtype) for _ in range(2))
        scores_NE = torch.randn(s.tokens, s.experts, generator=generator)
        if s.skewed:
            scores_NE += 2 * torch.randn(s.experts, generator=generator)
            scores_NE[:, torch.randperm(s.experts, generator=generator)[: s.experts // 3]] = -torch.inf
        weight_Nk, index_Nk = scores_NE.softmax(-1).topk(s.chosen)
        return x_ND.requires_grad_(), index_Nk, weight_Nk.to(self.dtype).requires_grad_(), grad_ND

    def step(self, name: str, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The output, and the gradients of tokens, routing weights and, if trained, matrices."""
        x_ND, index_Nk, weight_Nk, grad_ND = given
        self.experts.config._experts_implementation = name
        y_ND = self.experts(x_ND, index_Nk, weight_Nk)
        matrices = self.experts.parameters() if self.trained else ()
        return y_ND, *torch.autograd.grad(y_ND, (x_ND, weight_Nk, *matrices), grad_ND)


def _row(shape: Shape, dtype: str, trained: bool, turns: int, clock: Callable[[], float]) -> Row:
    layer = _Layer(shape, dtype, trained)
    names = layer.contestants()
    _check(layer, names)
    once = {name: 1000 * _turn(layer, name, [layer.given(1)], clock) for name in names}
    steps = max(1, min(20, int(20 / min(once.values()))))
    cold = 3 if steps > 1 else 1  # products that take long are little delayed by being compiled
    order, took = random.Random(0), {name: [] for name in names if once[name] < HOPELESS * min(once.values())}
    for turn in range(cold + turns):
        given = [layer.given(2 + turn * steps + i) for i in range(steps)]
        for name in order.sample(list(took), len(took)):
            took[name].append(1000 * _turn(layer, name, given, clock))
    ms = once | {name: median(turns[cold:]) for name, turns in took.items()}
    return Row(shape, dtype, trained, {name: ms.get(name) for name in (*THEIRS, *OURS)})


def _turn(layer: _Layer, name: str, given: list[tuple[Tensor, ...]], clock: Callable[[], float]) -> float:
    started = clock()
    for one in given:
        layer.step(name, one)
    return (clock() - started) / len(given)


def _check(layer: _Layer, names: list[str]) -> None:
    """All give the same, to rounding."""
    given = layer.given(0)
    truth = layer.step("grouped_mm", given)
    near = 1e-5 if layer.dtype == torch.float32 else 2e-2
    for name in names:
        for one, two in zip(layer.step(name, given), truth, strict=True):
            one, two = one.detach().float(), two.detach().float()
            error = float((one - two).norm() / two.norm())
            assert error <= near, f"{name} differs from grouped_mm by {error:.1e} at {layer.shape}"


def _cells(row: Row) -> tuple[str, ...]:
    ms = ("–" if t is None else f"{t:.2f}" if t < 10 else f"{t:.0f}" for t in row.ms.values())
    return str(row.shape), row.dtype, _kind(row), *ms, f"{row.ratio:.2f}"


HEAD = (
    "experts/chosen, width×inner, tokens",
    "dtype",
    "experts are",
    *(f"{n}, ms" for n in (*THEIRS, *OURS)),
    "best of theirs over ours",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=("tiny", "middle", "large"), default=("tiny", "middle", "large"))
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    pictures.add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    note = machine()
    print(note)
    print(f"{options.threads} thread(s), {options.clock} clock, medians of {options.turns} turns")
    shapes = tuple(s for s in (QUICK if options.quick else SHAPES) if s.size in options.only)
    found = []
    for row in rows(shapes, options.dtype, not options.quick, options.turns, options.clock):
        found.append(row)
        print(" | ".join(_cells(row)), flush=True)
    print(table(HEAD, map(_cells, found)))
    for trained in {row.trained for row in found}:
        ratios = [row.ratio for row in found if row.trained == trained]
        print(f"{'trained' if trained else 'frozen'}: {min(ratios):.2f} to {max(ratios):.2f}, median {median(ratios):.2f}")
    pictures.write(panels.experts(_ratios(found)), options.picture, note)


def _ratios(found: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """By frozen or trained, dtype and shape."""
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for row in found:
        ratios.setdefault(_kind(row), {}).setdefault(row.dtype, {})[str(row.shape)] = row.ratio
    return ratios


def _kind(row: Row) -> str:
    return "trained" if row.trained else "frozen"


if __name__ == "__main__":
    main()
