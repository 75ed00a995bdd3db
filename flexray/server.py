"""What to do with a mean, and what to take for one: server optimizers and robust aggregation, as functions of states.

Δ = mean − θ is the pseudo-gradient with its sign turned: the direction in which the clients went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flexray.errors import RunError
from flexray.state import ServerState, State, Update, add, below, scaled, sqdist, under

if TYPE_CHECKING:
    from torch import Tensor

Second = Callable[["Tensor", "Tensor"], "Tensor"]
"""The new v of one tensor, from the old one and Δ."""


def step(state: ServerState, mean: Update, kept: State, change: State) -> ServerState:
    """θ + change, with these moments kept; auxiliary state as the mean has it."""
    return ServerState(Update(add(state.sent.weights, change), mean.aux), kept)


def direction(state: ServerState, mean: Update) -> State:
    """Δ, the way from θ to the mean."""
    return add(mean.weights, state.sent.weights, -1.0)


def filled(like: State, value: float) -> State:
    """The same shapes, every number `value`."""
    return {name: t * 0 + value for name, t in like.items()}


def adaptive(state: ServerState, mean: Update, second: Second, lr: float, beta1: float, tau: float) -> ServerState:
    """m = β₁m + (1−β₁)Δ; v by `second`, elementwise from (v, Δ); θ ← θ + lr·m/(√v + τ) (Reddi et al. 2021, algorithm 2).

    `kept` holds m and v; `opened` makes them.
    """
    delta, m, v = direction(state, mean), below("m", state.kept), below("v", state.kept)
    m = {name: beta1 * m[name] + (1 - beta1) * d for name, d in delta.items()}
    v = {name: second(v[name], d) for name, d in delta.items()}
    change = {name: lr * m[name] / (v[name].sqrt() + tau) for name in delta}
    return step(state, mean, under("m", m) | under("v", v), change)


def opened(first: Update, tau: float) -> ServerState:
    """The start of `adaptive`: m = 0, v = τ²."""
    return ServerState(first, under("m", filled(first.weights, 0.0)) | under("v", filled(first.weights, tau**2)))


def adaptive_problems(lr: float, tau: float, betas: Mapping[str, float]) -> tuple[str, ...]:
    """Values outside of what `adaptive` can take, as problems of the method's own keys."""
    found = [
        f"{key}: expected a number above 0, got {value}; 0.001 is usual"
        for key, value in (("lr", lr), ("tau", tau))
        if not value > 0
    ]
    found += [
        f"{key}: expected at least 0 and less than 1, got {value}; 0.9 is usual"
        for key, value in betas.items()
        if not 0 <= value < 1
    ]
    return tuple(found)


def momentum_problems(lr: float, key: str, momentum: float) -> tuple[str, ...]:
    """Values that no momentum can take, as problems of the method's own keys."""
    found = [] if lr > 0 else [f"lr: expected a number above 0, got {lr}; 1 takes the mean's whole way"]
    found += [] if 0 <= momentum < 1 else [f"{key}: expected at least 0 and less than 1, got {momentum}; 0.9 is usual"]
    return tuple(found)


def averaged(states: Sequence[State], shares: Sequence[float]) -> State:
    """Σ_k share_k · state_k: the plain mean, for methods that need each update for something else."""
    total = scaled(states[0], shares[0])
    for state, share in zip(states[1:], shares[1:], strict=True):
        total = add(total, state, share)
    return total


@dataclass(frozen=True)
class Aggregate:
    """How updates become one.

    median: of every number (Yin et al. 2018, arXiv 1803.01498). trimmed_mean: of every number, without the ⌊trim·n⌋ largest
    and as many of the smallest (the same). krum: the whole update closest to its n − faulty − 2 nearest ones, whichever
    that is (Blanchard et al. 2017, arXiv 1703.02757).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rule: Literal["mean", "median", "trimmed_mean", "krum"] = "mean"
    """`mean`, weighted by rows; or a rule that a few faulty clients cannot move far, which counts every client once."""
    trim: float = 0.2
    """The share that trimmed_mean leaves out at either end, with that rule only."""
    faulty: int = 1
    """How many faulty clients krum must stand, with that rule only."""

    @property
    def each(self) -> bool:
        return self.rule != "mean"

    def combine(self, updates: Sequence[Update]) -> Update:
        """One update of all; [·] tensors without a seat axis."""
        if wrong := self._too_few(len(updates)):
            raise RunError(f"algorithm.{wrong}")
        if self.rule == "krum":
            return updates[krum([u.weights for u in updates], self.faulty)]
        of = median if self.rule == "median" else self._trimmed
        weights, aux = (
            {n: of([getattr(u, k)[n] for u in updates]) for n in getattr(updates[0], k)} for k in ("weights", "aux")
        )
        return Update(weights, aux)

    def problems(self, experiment: Any) -> tuple[str, ...]:
        """Settings that make no sense, with what else is set."""
        found = []
        for key, rule in (("trim", "trimmed_mean"), ("faulty", "krum")):
            if self.rule != rule and (value := getattr(self, key)) != getattr(Aggregate, key):
                found.append(f"aggregate.{key}: expected none with `aggregate.rule: {self.rule}`, got {value}; drop it")
        if not 0 < self.trim < 0.5:
            found.append(f"aggregate.trim: expected more than 0 and less than 0.5, got {self.trim}; {Aggregate.trim} is usual")
        if self.faulty < 0:
            found.append(f"aggregate.faulty: expected at least 0, got {self.faulty}; 1 is usual")
        cohort = _cohort(experiment)
        if not found and cohort is not None and (wrong := self._too_few(cohort)):
            found.append(wrong)
        return tuple(found)

    def _too_few(self, clients: int) -> str:
        """What is wrong with so many clients in a round; nothing if that is enough."""
        if self.rule == "krum" and clients < (least := 2 * self.faulty + 3):
            return (
                f"aggregate.rule: expected at least {least} clients in a round (2·faulty + 3) for krum, got {clients}; "
                "raise clients or cohort, or lower aggregate.faulty"
            )
        if self.rule == "trimmed_mean" and not self._cut(clients):
            return (
                f"aggregate.trim: expected at least 1/{clients}, to leave out one of {clients} clients, got {self.trim}; "
                "raise it, or clients or cohort"
            )
        return ""

    def _cut(self, clients: int) -> int:
        """How many are left out at either end; 0.29 · 100 is a little less than 29 in floating point."""
        return int(self.trim * clients + 1e-9)

    def _trimmed(self, values: Sequence[Tensor]) -> Tensor:
        return trimmed_mean(values, self._cut(len(values)))


def _cohort(experiment: Any) -> int | None:
    """How many clients take part in a round; None if only the data says."""
    size, clients = experiment.cohort, experiment.clients
    if isinstance(size, float):
        return clients and max(1, int(size * clients + 0.5))
    return clients if size is None else size


def median(values: Sequence[Tensor]) -> Tensor:
    """Elementwise; of an even number of values the mean of the middle two."""
    return trimmed_mean(values, (len(values) - 1) // 2)


def trimmed_mean(values: Sequence[Tensor], cut: int) -> Tensor:
    """Elementwise mean without the `cut` largest and the `cut` smallest; of whole numbers, which name things, the middle one."""
    ordered = values[0].new_empty(len(values), *values[0].shape)
    for i, value in enumerate(values):
        ordered[i] = value
    ordered = ordered.sort(0).values
    return ordered[cut : len(values) - cut].mean(0) if ordered.is_floating_point() else ordered[len(values) // 2]


def krum(states: Sequence[State], faulty: int) -> int:
    """The number of the state with the least sum of squared distances to its n − faulty − 2 nearest others."""
    n, distances = len(states), {}
    for i, j in combinations(range(n), 2):
        one, other = ({name: t[None] for name, t in states[m].items()} for m in (i, j))
        distances[i, j] = distances[j, i] = (
            sqdist(one, other).nan_to_num(inf, inf).item()
        )  # what is not a number is far from all
    scores = [sum(sorted(distances[i, j] for j in range(n) if j != i)[: n - faulty - 2]) for i in range(n)]
    return scores.index(min(scores))
