"""FedSA-LoRA: A is averaged, B stays."""

import numpy as np
import torch

from flexray.algorithm import ClientState, ServerState, Update
from flexray.algorithms.fedsa_lora import FedSaLora
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

A, B = "a/s/a", "b/s/b"
ROWS = [1, 3, 2]


def trainer(k: int, targets, rate=0.5, count=1) -> ToyTrainer:
    """Of one client, with its targets for A and B."""
    values = {n: torch.as_tensor(t[k], dtype=torch.float64)[None] for n, t in targets.items()}
    return ToyTrainer(values, torch.tensor([ROWS[k]]), rate=rate, count=count, start={B: torch.zeros_like(values[B][0])})


def test_two_rounds_by_hand():
    """A: targets 2 and 6, weights 1/4 and 3/4; half of the way: 1 and 3, mean 2.5. B: targets 4 and 8, so 2 and 4, kept.

    Round 1, with the second client alone: A 2.5 + 1.75 = 4.25, the mean of one; B of the second 4 + 2 = 6, of the first still 2.
    """
    targets = {A: np.array([2.0, 6.0]).reshape(2, 1, 1), B: np.array([4.0, 8.0]).reshape(2, 1, 1)}
    algorithm, mine = FedSaLora(Lora(rank=1)), {}
    state = ServerState(Update({A: torch.zeros(1, 1, dtype=torch.float64)}))
    shapes = {A: (1, 1), B: (1, 1)}
    state = play(algorithm, state, lambda k, _: trainer(k, targets), mine, [0, 1], 0, ROWS, 2, shapes)
    assert float(state.sent.weights[A]) == 2.5
    assert [float(mine[k].weights[B]) for k in (0, 1)] == [2.0, 4.0]
    state = play(algorithm, state, lambda k, _: trainer(k, targets), mine, [1], 1, ROWS, 2, shapes)
    assert float(state.sent.weights[A]) == 4.25
    assert [float(mine[k].weights[B]) for k in (0, 1)] == [2.0, 6.0]
    served = algorithm.personal(trainer(0, targets), state.sent, mine[0])
    assert {n: float(t) for n, t in served.items()} == {A: 4.25, B: 2.0}


def test_against_plain_numpy():
    """Three clients, three rounds, changing cohorts."""
    rng, algorithm, mine = np.random.default_rng(1), FedSaLora(Lora(rank=2)), {}
    targets = {A: rng.normal(size=(3, 2, 4)), B: rng.normal(size=(3, 5, 2))}
    a, bs = rng.normal(size=(2, 4)), [np.zeros((5, 2)) for _ in range(3)]
    state = ServerState(Update({A: torch.tensor(a)}))
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1, 2]]):
        state = play(
            algorithm, state, lambda k, _: trainer(k, targets, 0.3, 2), mine, cohort, round, ROWS, 3, {A: (2, 4), B: (5, 2)}
        )
        mean, total = np.zeros_like(a), sum(ROWS[k] for k in cohort)
        for k in cohort:
            mean += ROWS[k] / total * (targets[A][k] + 0.7**2 * (a - targets[A][k]))
            bs[k] = targets[B][k] + 0.7**2 * (bs[k] - targets[B][k])
        a = mean
        np.testing.assert_allclose(state.sent.weights[A].numpy(), a, atol=1e-12)
    for k in range(3):
        np.testing.assert_allclose(mine[k].weights[B][0].numpy(), bs[k], atol=1e-12)


def test_only_a_crosses():
    algorithm, shapes = FedSaLora(Lora(rank=1)), {A: (1, 2), B: (2, 1)}
    assert algorithm.up(shapes).weights == algorithm.down(shapes, 3).weights == {A: (1, 2)}
    up, mine = algorithm.client(
        trainer(0, {A: np.ones((1, 1, 2)), B: np.ones((1, 2, 1))}),
        Update({A: torch.zeros(1, 1, 2, dtype=torch.float64)}),
        ClientState({B: torch.zeros(1, 2, 1, dtype=torch.float64)}),
    )
    assert set(up.weights) == {A}
    assert set(mine.weights) == {B}
