"""A federation small enough to work out by hand: quadratic losses, plain gradient descent, no model, no Ray.

Client k's loss is ½·Σ ‖w − target_k‖² over all trained tensors, so a step of rate η goes the η-th part of the way: after S
steps what is left of the distance to the target is (1−η)^S of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from flexray.algorithm import Algorithm, Payload
from flexray.state import ClientState, ServerState, Shapes, State, Update, part_of, seat, widen


@dataclass
class ToyTrainer:
    """A `LocalTrainer` over clients with these targets (name to value, [K, …]; `valid_targets` on the valid split)."""

    targets: State
    rows: torch.Tensor
    rate: float = 0.5
    count: int = 1
    round: int = 0
    client: torch.Tensor = field(default_factory=lambda: torch.arange(0))
    valid_targets: State = field(default_factory=dict)
    curvature: State = field(default_factory=dict)
    """Weighs the squares of the loss, by name, [K, …]; 1 where a name is missing."""
    start: State = field(default_factory=dict)
    """What `fresh` gives, without a seat axis."""
    shares_of_experts: State = field(default_factory=dict)
    tokens_of_experts: State = field(default_factory=dict)
    calls: list[dict] = field(default_factory=list)
    """Every `fit` so far: its arguments."""

    def __post_init__(self):
        k = len(self.rows)
        self.lr, self.steps = torch.full((k,), self.rate, dtype=torch.float64), torch.full((k,), self.count)
        self.share = self.rows.double() / self.rows.sum()

    def fit(
        self, weights, *, train=None, penalty: Callable | None = None, steps=None, split="train", stream=0, same_batch=False, mask=None
    ) -> State:  # fmt: skip
        self.calls.append({"train": train, "steps": steps, "split": split, "stream": stream, "same_batch": same_batch})
        now = {n: t.clone() for n, t in weights.items()}
        trained = [n for n in now if train is None or part_of(n) in train]
        for _ in range(self.count if steps is None else steps):
            leaves = {n: now[n].clone().requires_grad_() for n in trained}
            loss = self._loss(leaves, split).sum() + (penalty(leaves).sum() if penalty else 0.0)
            grads = torch.autograd.grad(loss, [leaves[n] for n in trained])
            for n, g in zip(trained, grads, strict=True):
                now[n] = now[n] - self.rate * g * (mask[n] if mask else 1)
        return now

    def gradient(self, weights, *, split="train", stream=0) -> State:
        leaves = {n: t.clone().requires_grad_() for n, t in weights.items()}
        grads = torch.autograd.grad(self._loss(leaves, split).sum(), list(leaves.values()))
        return dict(zip(leaves, grads, strict=True))

    def loss(self, weights, *, split="valid") -> torch.Tensor:
        return self._loss(weights, split)

    def fresh(self, parts) -> State:
        names = {p.name for p in parts}
        return widen({n: t for n, t in self.start.items() if part_of(n) in names}, len(self.rows))

    def profile(self) -> State:
        return self.shares_of_experts

    def usage(self) -> State:
        return self.tokens_of_experts

    def _loss(self, weights: State, split: str) -> torch.Tensor:
        targets = self.valid_targets if split == "valid" else self.targets
        terms = [(0.5 * self.curvature.get(n, 1.0) * (t - targets[n]).square()).flatten(1).sum(1) for n, t in weights.items()]
        return sum(terms[1:], terms[0])


def play(
    algorithm: Algorithm, state: ServerState, make: Callable[[int, int], ToyTrainer], mine: dict[int, ClientState],
    cohort: Sequence[int], round: int, rows: Sequence[int], population: int, shapes: Shapes | None = None,
) -> ServerState:  # fmt: skip
    """One round, client by client, the slow and obvious way: `make(client, round)` gives a trainer with one seat.

    With the `shapes` of all parts, only what the method declares crosses, and all of it (`wire`).
    """
    total, ups = sum(rows[k] for k in cohort), []
    for k in cohort:
        trainer, sent = make(k, round), Update(widen(state.sent.weights, 1), widen(state.sent.aux, 1))
        if shapes is not None:
            sent = wire(algorithm, algorithm.down(shapes, len(cohort)), sent, k)
        trainer.share = torch.tensor([rows[k] / total], dtype=torch.float64)
        owned = mine[k] if k in mine else algorithm.start(trainer, sent)
        up, mine[k] = algorithm.client(trainer, sent, owned)
        if shapes is not None:
            crossed = wire(algorithm, algorithm.up(shapes), up, k)
            assert all(torch.equal(t, up.weights[n]) for n, t in crossed.weights.items()), "more than the client's corner"
        ups.append(Update(seat(up.weights, 0), seat(up.aux, 0)))
    shares = [rows[k] / total for k in cohort]
    mean = algorithm.combine(ups, shares) if algorithm.each else _mean(ups, shares)
    return algorithm.server(state, mean, len(cohort) / population)


def wire(algorithm: Algorithm, payload: Payload, update: Update, client: int) -> Update:
    """What of an update [1, …] crosses: the names and shapes of the payload, zero outside of the client's corner of them."""
    cut, crossed = algorithm.cut(payload, client), []
    for kind in ("weights", "aux"):
        sent, listed, corner = getattr(update, kind), getattr(payload, kind), getattr(cut, kind)
        assert {n: tuple(t.shape[1:]) for n, t in sent.items()} == listed
        crossed.append({n: torch.zeros_like(t) for n, t in sent.items()})
        for n, t in sent.items():
            at = (slice(None), *(slice(0, size) for size in corner[n]))
            crossed[-1][n][at] = t[at]
    return Update(*crossed)


def _mean(updates: Sequence[Update], shares: Sequence[float]) -> Update:
    def of(kind: str) -> State:
        found = State()
        for p, update in zip(shares, updates, strict=True):
            for n, t in getattr(update, kind).items():
                found[n] = found[n] + p * t if n in found else p * t
        return found

    return Update(of("weights"), of("aux"))
