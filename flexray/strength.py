"""Strength: how much of what was trained a client serves with, chosen by each client on its own valid rows.

With few rows a private expert overfits until it is worse than no training at all; with many it is worth having whole. So
what is private, and then what is shared, is scaled by whichever strength gives the lowest valid loss; 0 for both is the
frozen model. Only factors in front of a linear map are scaled, so that each strength is a model on the straight way from
the start of the trained part to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flexray.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from flexray.algorithm import LocalTrainer

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)
"""The strengths to choose from, all of it first; of equal ones the first."""


def validated(trainer: LocalTrainer, weights: State, private: frozenset[str], grid: Sequence[float] = GRID) -> State:
    """The weights at each client's best strengths: first of the parts `private`, then of all others, the first being fixed.

    On valid rows never worse than everything in full, than nothing private, or than the frozen model.
    """
    own = [name for name in weights if name.split("/", 1)[0] in private and _is_factor(name)]
    rest = [name for name in weights if name.split("/", 1)[0] not in private and _is_factor(name)]
    lowest = trainer.loss(weights)
    for names in (own, rest, own + rest):  # at last both at once: as they are, or nothing
        if names:
            weights, lowest = _best(trainer, weights, names, grid[1:] if names != own + rest else (0.0,), lowest)
    return weights


def _best(
    trainer: LocalTrainer, weights: State, names: Sequence[str], grid: Sequence[float], lowest: Tensor
) -> tuple[State, Tensor]:
    """The weights, with these tensors at the strength of `grid` that has a lower valid loss than `lowest` [K], if any has."""
    best = lowest * 0 + 1
    for strength in grid:
        loss = trainer.loss(_times(weights, names, lowest * 0 + strength))
        better = loss < lowest
        best, lowest = (best * 0 + strength).where(better, best), loss.where(better, lowest)
    return _times(weights, names, best), lowest


def _times(weights: State, names: Sequence[str], strength: Tensor) -> State:
    """These tensors [K, …] times [K]."""
    return weights | {n: weights[n] * strength.view(-1, *[1] * (weights[n].dim() - 1)) for n in names}


def _is_factor(name: str) -> bool:
    """Whether what a part adds is proportional to this tensor: B of an adapter, the down projection of an expert's copy, or
    the B of adapters on one that started at zero output (together they lead from nothing to all of it)."""
    last = name.rpartition("/")[2]
    return last in ("b", "down", "down_bias") or last.endswith("_b")
