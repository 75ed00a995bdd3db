"""What the tests of methods share: a federation on flat numpy vectors, played by a method or by a plain loop, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from flexray.algorithm import Algorithm
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.reference import told
from flexray.state import ClientState, ServerState, State, Update, part_of, widen
from tests.algorithms.toy import ToyTrainer, play

Vector = np.ndarray
COHORTS = ((0, 1, 2, 3), (0, 2), (1, 3), (3,), (0, 1, 2), (1, 2, 3))
EVERYBODY = ((0, 1, 2, 3),) * 5


def state_of(part: str, vector: Sequence[float] | Vector) -> State:
    """A part's vector as two named tensors (one, if it has one number), without a seat axis."""
    half = (len(vector) + 1) // 2
    pieces = {"a": vector[:half], "b": vector[half:]}
    return {
        f"{part}/x/{last}": torch.tensor(np.array(piece), dtype=torch.float64) for last, piece in pieces.items() if len(piece)
    }


def vector_of(state: State, part: str) -> Vector:
    """Undoes `state_of`; also of tensors with one seat."""
    return np.concatenate([t.detach().numpy().ravel() for name, t in sorted(state.items()) if part_of(name) == part])


class Joint(ToyTrainer):
    """A toy whose loss is ½·curvature·‖Σ_parts w_part − target‖²: what one part is fixes what is left for the others."""

    def fit(self, weights, **settings) -> State:
        self.held = weights
        return super().fit(weights, **settings)

    def _loss(self, weights, split):
        sums = State()
        for name, t in {**self.held, **weights}.items():
            whole = f"lora/{name.split('/', 1)[1]}"
            sums[whole] = sums[whole] + t if whole in sums else t
        return super()._loss(sums, split)


@dataclass
class Federation:
    """Clients with these targets (and curvatures) of each part, [clients, D]; the rate of each round, and local steps.

    joint: the parts add up, toward the target of `lora`.
    """

    targets: dict[str, Vector]
    rows: Sequence[int]
    rates: Sequence[float]
    steps: int
    start: dict[str, Vector]
    curvature: dict[str, Vector] = field(default_factory=dict)
    joint: bool = False
    mine: dict[int, ClientState] = field(default_factory=dict)
    state: ServerState = field(default_factory=lambda: ServerState(Update()))

    @property
    def clients(self) -> int:
        return len(self.rows)

    def share(self, cohort: Sequence[int]) -> list[float]:
        """p_k, in the order of the cohort."""
        return [self.rows[k] / sum(self.rows[j] for j in cohort) for k in cohort]

    def trainer(self, k: int, round: int) -> ToyTrainer:
        """Client k's, with one seat."""

        def one(vectors: dict[str, Vector]) -> State:
            return {name: t[None] for part, v in vectors.items() for name, t in state_of(part, v[k]).items()}

        start = {name: t for part, v in self.start.items() for name, t in state_of(part, v).items()}
        return (Joint if self.joint else ToyTrainer)(
            one(self.targets), torch.tensor([self.rows[k]]), self.rates[round], self.steps, round, torch.tensor([k]), start=start,
            curvature=one(self.curvature),
        )  # fmt: skip

    def open(self, algorithm: Algorithm) -> ServerState:
        sent = {name: t for p in algorithm.shared for name, t in state_of(p.name, self.start[p.name]).items()}
        aux = algorithm.down({name: tuple(t.shape) for name, t in sent.items()}, self.clients).aux
        return algorithm.open(Update(sent, {name: torch.zeros(shape, dtype=torch.float64) for name, shape in aux.items()}))

    def played(self, algorithm: Algorithm, cohorts: Sequence[Sequence[int]], part: str = "lora") -> list[Vector]:
        """The shared part after each round; private and server state stay in `mine` and `state`."""
        self.state, self.mine, after = self.open(algorithm), {}, []
        for round, cohort in enumerate(cohorts):
            self.state = play(algorithm, self.state, self.trainer, self.mine, cohort, round, self.rows, self.clients)
            after.append(vector_of(self.state.sent.weights, part) if algorithm.shared else np.zeros(0))
        return after

    def served(self, algorithm: Algorithm, k: int, part: str, round: int = 0) -> Vector:
        """A part of what client k serves with after what was `played`."""
        sent = Update(widen(self.state.sent.weights, 1), widen(self.state.sent.aux, 1))
        return vector_of(algorithm.personal(self.trainer(k, round), sent, self.mine.get(k, ClientState())), part)

    def gradient(self, k: int, w: Vector, part: str = "lora") -> Vector:
        """Of client k's loss at w, by its formula."""
        return self.curvature.get(part, np.ones_like(self.targets[part]))[k] * (w - self.targets[part][k])

    def descend(
        self, k: int, w: Vector, round: int, steps: int | None = None, more: Callable[[Vector], Vector] | None = None, part: str = "lora"
    ) -> Vector:  # fmt: skip
        """Client k's plain gradient steps from w; `more` is added to the gradient."""
        for _ in range(self.steps if steps is None else steps):
            w = w - self.rates[round] * (self.gradient(k, w, part) + (more(w) if more else 0.0))
        return w


def by_hand(
    steps: int = 1, rate: float = 0.5, parts: Sequence[str] = ("lora",), targets: Sequence[float] = (4, 8), joint=False
):
    """Two clients with 1 and 3 rows (p = ¼, ¾) whose weights, one number, start at 0 and are drawn to 4 and 8."""
    columns = np.array(targets, dtype=float)[:, None]
    return Federation(dict.fromkeys(parts, columns), (1, 3), (rate,) * 9, steps, dict.fromkeys(parts, np.zeros(1)), joint=joint)


def at_random(parts: Sequence[str] = ("lora",), steps: int = 3, joint: bool = False) -> Federation:
    """Four clients with 10, 30, 20 and 40 rows, seven numbers in each part, curvatures of their own and a falling rate."""
    rng = {part: np.random.default_rng(i) for i, part in enumerate(dict.fromkeys(("lora", *parts)))}
    targets = {part: r.normal(size=(4, 7)) for part, r in rng.items()}
    start = {part: r.normal(size=7) for part, r in rng.items()}
    curvature = {part: r.uniform(0.3, 1.2, size=(4, 7)) for part, r in rng.items()}
    return Federation(targets, (10, 30, 20, 40), [0.3 / (1 + r) for r in range(9)], steps, start, curvature, joint)


def assert_close(got: ArrayLike, wanted: ArrayLike) -> None:
    np.testing.assert_allclose(np.array(got), np.array(wanted), rtol=1e-12, atol=1e-12)


def refusal(name: str, experiment: dict[str, Any] | None = None, **settings: Any) -> str:
    """What is said to a method's settings that make no sense."""
    with pytest.raises(ConfigError) as e:
        Experiment(**{"algorithm": {"name": name, **settings}, **(experiment or {})})
    return str(e.value)


def assert_documented(cls: type[Algorithm], **defaults) -> None:
    """These are the defaults of all settings (but those of the parts), and the code says what each is for."""
    own = [f.name for f in fields(cls) if f.name not in ("lora", "graft", "gate")]
    assert {name: getattr(cls(), name) for name in own} == defaults
    assert all(told.fields(cls).get(name) or re.search(rf"\b{name}\b", str(cls.__doc__)) for name in own), own
