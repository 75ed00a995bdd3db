"""What is wrong with a sweep as it is asked for, told once and in no more than a screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from flexray.findings import show

if TYPE_CHECKING:
    from flexray.sweeping.spec import Spec

FIXED = ("plugins", "sweep", "evaluation.split", "resources.backend", "resources.address", "storage")
"""Keys that hold for all trials alike."""
WITH = " (with "
"""Between a problem and the values of other keys that it came with."""
SCREEN = 12
"""Problems that are told."""
MOST = 100_000
"""Trials: each is an experiment that is checked before the first one starts, and a run folder."""


def once(found: Sequence[str], trials: int) -> list[str]:
    """Each problem once, with the first values that it came with, unless it came with all."""
    values: dict[str, list[str]] = {}
    for problem in found:
        bare, _, those = problem.partition(WITH)
        values.setdefault(bare, []).append(those.removesuffix(")"))
    told = [bare + _came_with(list(dict.fromkeys(those)), len(those) == trials) for bare, those in values.items()]
    return [*told[:SCREEN], *([f"and {len(told) - SCREEN} more"] if len(told) > SCREEN else [])]


def _came_with(values: list[str], always: bool) -> str:
    if not values[0] or (always and len(values) > 1):
        return ""
    more = f", and {len(values) - 1} more such" if len(values) > 1 else ""
    return f"{WITH}{values[0]}{more})"


def problems(spec: Spec) -> Iterator[str]:
    """What can be told without any trial's own experiment."""
    s, evaluation = spec.sweep, spec.values.get("evaluation")
    split = evaluation.get("split", "valid") if isinstance(evaluation, Mapping) else "valid"
    if split == "test":
        yield "evaluation.split: expected valid, got 'test'; settings chosen by test rows would flatter themselves: drop it"
    for key in spec.axes:
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED):
            yield f"sweep.over.{key}: expected no such key, as it holds for all trials alike, got one; drop it"
    if "seed" in spec.axes and "seed" in spec.values:
        yield f"seed: expected none beside sweep.over.seed, got {show(spec.values['seed'])}; drop it"
    if s.samples is not None and not spec.drawn:
        yield f"sweep.samples: expected none where all keys are grids, got {s.samples}; drop it"
    yield from _too_many(spec)
    if isinstance(s.cpus, float) and s.cpus <= 0:
        yield f"sweep.cpus: expected auto or a number above 0, got {s.cpus:g}; use auto"
    if s.search == "optuna":
        for key, a in spec.axes.items():
            if (a.kind == "grid") != (key == "seed"):
                wanted, mend = (
                    ("a grid", "use grid") if key == "seed" else ("a choice or a range", "use choice, or `search: random`")
                )
                yield f"sweep.over.{key}: expected {wanted} with `search: optuna`, got {a.kind}; {mend}"
        if not spec.drawn:
            yield "sweep.over: expected a choice or a range with `search: optuna`, got none; add one, or use `search: random`"


def _too_many(spec: Spec) -> Iterator[str]:
    """Before any of them is made."""
    trials = spec.samples * prod(len(a.listed) for a in spec.axes.values() if a.kind == "grid")
    if trials > MOST:
        key = "samples" if spec.samples > MOST else "over"
        yield f"sweep.{key}: expected at most {MOST:,} trials, got {trials:,}; ask for fewer draws or shorter lists"
