"""FFA-LoRA: only B is trained, sent and averaged."""

import numpy as np
import torch

from flexray.algorithm import ServerState, Update
from flexray.algorithms.ffa_lora import FfaLora
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

B = "b/s/b"
SHAPES = {"a/s/a": (1, 2), B: (2, 1)}
ROWS = [1, 3, 2]


def test_two_rounds_by_hand():
    """Targets 2 and 6, half of the way per round, weights 1/4 and 3/4.

    Round 0, from 0: 1 and 3, mean 1/4·1 + 3/4·3 = 2.5. Round 1: 2.5 − 0.25 = 2.25 and 2.5 + 1.75 = 4.25, mean 3.75.
    """
    algorithm, targets = FfaLora(Lora(rank=1)), [2.0, 6.0]
    state = ServerState(Update({B: torch.zeros(1, 1, dtype=torch.float64)}))
    means = []
    for round in range(2):

        def make(k, _):
            return ToyTrainer({B: torch.full((1, 1, 1), targets[k], dtype=torch.float64)}, torch.tensor([ROWS[k]]))

        state = play(algorithm, state, make, {}, [0, 1], round, ROWS, 2, {"a/s/a": (1, 1), B: (1, 1)})
        means.append(float(state.sent.weights[B]))
    assert means == [2.5, 3.75]


def test_the_mean_of_b_is_the_mean_of_the_products():
    """Against plain numpy over three rounds with two of three clients each: the dense ΔW = mean of (alpha/rank)·B_k·A."""
    rng, algorithm = np.random.default_rng(0), FfaLora(Lora(rank=1, alpha=4.0))
    a, targets = rng.normal(size=(1, 2)), rng.normal(size=(3, 2, 1))
    state, b, mine = ServerState(Update({B: torch.zeros(2, 1, dtype=torch.float64)})), np.zeros((2, 1)), {}
    for round, cohort in enumerate([[0, 1], [1, 2], [0, 2]]):

        def make(k, _):
            return ToyTrainer({B: torch.tensor(targets[k])[None]}, torch.tensor([ROWS[k]]), rate=0.3, count=2)

        state = play(algorithm, state, make, mine, cohort, round, ROWS, 3, SHAPES)
        dense, total = np.zeros((2, 2)), sum(ROWS[k] for k in cohort)
        for k in cohort:
            own = targets[k] + 0.7**2 * (b - targets[k])  # what two steps leave of the way
            dense += ROWS[k] / total * 4.0 * own @ a
        b = dense @ a.T / (4.0 * (a @ a.T))
        np.testing.assert_allclose(4.0 * state.sent.weights[B].numpy() @ a, dense, atol=1e-12)


def test_a_is_neither_sent_nor_owned():
    algorithm = FfaLora(Lora(rank=1))
    for payload in (algorithm.up(SHAPES), algorithm.down(SHAPES, 3)):
        assert payload.weights == {B: (2, 1)}
        assert not payload.aux
    assert not algorithm.private
