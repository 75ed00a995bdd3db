"""HetLoRA: zero-padded adapters, weighted by the size of their products."""

from typing import Any

import numpy as np
import pytest
import torch

from flexray.algorithm import ServerState, Update
from flexray.algorithms.hetlora import HetLora
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

A, B = "lora/s/a", "lora/s/b"
ROWS = [1, 3, 2]


def doubles(a, b) -> dict[str, torch.Tensor]:
    return {A: torch.tensor(a, dtype=torch.float64), B: torch.tensor(b, dtype=torch.float64)}


def test_two_rounds_by_hand():
    """Ranks 1 and 2, a layer of one number in and out, half of the way; who has more rows does not matter.

    Round 0, from A = (1, 1), B = (0, 0): client 0 has the first rank only: A = 1, B = 4/2 = 2, size 2. Client 1 towards
    A = (1, 1), B = (0, 12): B = (0, 6), size 6. Weights 1/4 and 3/4: A = (1, 3/4), B = (1/2, 9/2).
    Round 1: client 0 gets A = 1, B = 1/2, and has B = (1/2 + 4)/2 = 2.25, size 2.25. Client 1: A = (1, 0.875),
    B = (0.25, 8.25), size 0.25·1 + 8.25·0.875 = 7.46875. Weights 2.25/9.71875 and 7.46875/9.71875.
    """
    algorithm, mine, targets = HetLora((1, 2), Lora(rank=2)), {}, [([[1], [0]], [[4, 0]]), ([[1], [1]], [[0, 12]])]

    def make(k, _):
        return ToyTrainer({n: t[None] for n, t in doubles(*targets[k]).items()}, torch.tensor([ROWS[k]]))

    state = ServerState(Update(doubles([[1], [1]], [[0, 0]])))
    state = play(algorithm, state, make, mine, [0, 1], 0, ROWS, 2, {A: (2, 1), B: (1, 2)})
    torch.testing.assert_close(state.sent.weights, doubles([[1], [0.75]], [[0.5, 4.5]]))
    state = play(algorithm, state, make, mine, [0, 1], 1, ROWS, 2, {A: (2, 1), B: (1, 2)})
    w = 2.25 / 9.71875
    expected = doubles([[1], [(1 - w) * 0.875]], [[w * 2.25 + (1 - w) * 0.25, (1 - w) * 8.25]])
    torch.testing.assert_close(state.sent.weights, expected, rtol=0, atol=1e-10)


def test_against_dense_products():
    """Two layers, ranks 1, 3 and 2: weights ∝ the Frobenius norm over all layers together of the dense B·A, in plain numpy."""
    rng, algorithm = np.random.default_rng(5), HetLora((1, 3, 2), Lora(rank=3))
    shapes = {"lora/s/a": (3, 6), "lora/s/b": (5, 3), "lora/t/a": (3, 4), "lora/t/b": (2, 3)}
    targets = {n: rng.normal(size=(3, *shape)) for n, shape in shapes.items()}
    for k, rank in enumerate(algorithm.ranks):
        for n, t in targets.items():
            (t[k] if n.endswith("a") else t[k].T)[rank:] = 0
    now: dict[str, Any] = {n: rng.normal(size=shape) * n.endswith("a") for n, shape in shapes.items()}
    state, mine = ServerState(Update({n: torch.tensor(t) for n, t in now.items()})), {}
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1, 2]]):

        def make(k, _):
            return ToyTrainer({n: torch.tensor(t[k])[None] for n, t in targets.items()}, torch.tensor([ROWS[k]]))

        state = play(algorithm, state, make, mine, cohort, round, ROWS, 3, shapes)
        own, sizes = {}, {}
        for k in cohort:
            r = algorithm.ranks[k]
            own[k] = {n: np.zeros(shape) for n, shape in shapes.items()}
            for n, t in own[k].items():
                corner = np.s_[:r] if n.endswith("a") else np.s_[:, :r]
                t[corner] = (now[n][corner] + targets[n][k][corner]) / 2
            dense = [own[k][f"lora/{layer}/b"] @ own[k][f"lora/{layer}/a"] for layer in "st"]
            sizes[k] = np.sqrt(sum((w**2).sum() for w in dense))
        now = {n: sum(sizes[k] / sum(sizes.values()) * own[k][n] for k in cohort) for n in shapes}
        for n, t in now.items():
            np.testing.assert_allclose(state.sent.weights[n].numpy(), t, atol=1e-10)


def test_without_anything_learnt_all_count_alike():
    updates = [Update(doubles([[a]], [[0]])) for a in (1, 5)]
    torch.testing.assert_close(HetLora(lora=Lora(rank=1)).combine(updates, [0.9, 0.1]).weights, doubles([[3]], [[0]]))


@pytest.mark.parametrize(("ranks", "got"), [((2, 9), 9), ((4, 0), 0)])
def test_ranks_outside_are_refused(ranks, got):
    with pytest.raises(ConfigError, match=rf"algorithm\.ranks: expected 1 to lora\.rank \(8\), got {got}; lower them"):
        Experiment(algorithm={"name": "hetlora", "ranks": ranks})
