"""FLoRA: what is folded in is the exact mean of the products, round after round."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.algorithm import Update
from flexray.algorithms.flora import FLoRA
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

A, B, W = "lora/s/a", "lora/s/b", "folded/s/w"
ROWS = [1, 3, 2]


def opened(algorithm: FLoRA, shapes: dict, clients: int):
    """The server before round 0, as the harness opens it: zeros for all that is no weight."""
    down = algorithm.down(shapes, clients)
    return algorithm.open(Update({}, {n: torch.zeros(s, dtype=torch.float64) for n, s in down.aux.items()}))


def trainer(k: int, a, b, start_a, width: int, rate=0.5, count=1) -> ToyTrainer:
    targets = {A: torch.as_tensor(a[k], dtype=torch.float64)[None], B: torch.as_tensor(b[k], dtype=torch.float64)[None]}
    start = {A: torch.as_tensor(start_a, dtype=torch.float64), B: torch.zeros_like(targets[B][0])}
    start[W] = torch.zeros(width, start[A].shape[1], dtype=torch.float64)
    return ToyTrainer(targets, torch.tensor([ROWS[k]]), rate=rate, count=count, start=start)


def test_two_rounds_by_hand():
    """Numbers instead of matrices, scale 2/1, half of the way; A starts at 1 and B at 0 in every round; weights 1/4 and 3/4.

    Round 0, targets (A, B) = (1, 4) and (3, 8): (1, 2) and (2, 4), folded 2·(1/4·2·1 + 3/4·4·2) = 13.
    Round 1, targets (1, 2) and (1, 4): (1, 1) and (1, 2), folded 13 + 2·(1/4·1 + 3/4·2) = 16.5.
    """
    algorithm, shapes, mine = FLoRA(Lora(rank=1, alpha=2.0)), {A: (1, 1), B: (1, 1), W: (1, 1)}, {}
    a = np.array([[1.0, 3.0], [1.0, 1.0]]).reshape(2, 2, 1, 1)
    b = np.array([[4.0, 8.0], [2.0, 4.0]]).reshape(2, 2, 1, 1)
    state, folded = opened(algorithm, shapes, 2), []
    for round in range(2):

        def make(k, t):
            return trainer(k, a[t], b[t], [[1.0]], 1)

        state = play(algorithm, state, make, mine, [0, 1], round, ROWS, 2, shapes)
        sent = Update({}, {n: t[None] for n, t in state.sent.aux.items()})
        folded.append([float(algorithm.personal(make(k, round), sent, mine[k])[W]) for k in (0, 1)])
    assert folded == [[13.0, 13.0], [16.5, 16.5]]


def test_against_the_dense_mean_of_the_products():
    """Three clients, three rounds, rank 2: Σ over rounds of (alpha/rank)·Σ p_k B_k A_k, in plain numpy; served alike by all."""
    rng, algorithm, mine = np.random.default_rng(2), FLoRA(Lora(rank=2, alpha=3.0)), {}
    shapes, start = {A: (2, 4), B: (5, 2), W: (5, 4)}, rng.normal(size=(2, 4))
    a, b = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=(3, 3, 5, 2))
    state, dense = opened(algorithm, shapes, 3), np.zeros((5, 4))
    for round in range(3):

        def make(k, t):
            return trainer(k, a[t], b[t], start, 5, 0.3, 2)

        state = play(algorithm, state, make, mine, [0, 1, 2], round, ROWS, 3, shapes)
        for k in range(3):
            own_a = a[round, k] + 0.7**2 * (start - a[round, k])
            own_b = b[round, k] - 0.7**2 * b[round, k]
            dense += 3.0 / 2 * ROWS[k] / 6 * own_b @ own_a
        sent = Update({}, {n: t[None] for n, t in state.sent.aux.items()})
        for k in range(3):
            served = algorithm.personal(make(k, round), sent, mine[k])
            np.testing.assert_allclose(served[W][0].numpy(), dense, atol=1e-12)
            assert not served[B].any(), "new adapters add nothing until they are trained"


def test_up_goes_one_adapter_and_down_all_of_them_stacked():
    algorithm, shapes = FLoRA(Lora(rank=2)), {A: (2, 4), B: (5, 2), W: (5, 4)}
    assert algorithm.up(shapes).weights == {A: (2, 4), B: (5, 2)}
    assert not algorithm.up(shapes).aux
    assert not algorithm.down(shapes, 3).weights
    assert algorithm.down(shapes, 3).aux == {f"stack/{A}": (6, 4), f"stack/{B}": (5, 6)}


def test_a_partial_cohort_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.name: expected all clients in every round with flora, got `cohort: 2`"):
        Experiment(clients=3, cohort=2, algorithm={"name": "flora"})
    with pytest.raises(ConfigError, match=r"algorithm\.name: expected all clients .* got `cohort: 0\.5`"):
        Experiment(clients=4, cohort=0.5, algorithm={"name": "flora"})
    for cohort in (None, 1.0, 3):
        Experiment(clients=3, cohort=cohort, algorithm={"name": "flora"})


def test_on_the_model_everybody_folds_the_same(small, tmp_path):
    """After two rounds, by two seats and one: the same ΔW at every client, to the bit; served with and without what is private."""
    run = api.simulate(small(algorithm={"name": "flora"}, placement="pooled", seats=2), tmp_path / "run")
    states = [load_file(sorted(c.glob("*"))[-1]) for c in sorted((run.path / "private").iterdir())]
    assert len(states) == 3
    for name, t in states[0].items():
        assert t.any()
        assert all(torch.equal(t, other[name]) for other in states)
    mean = run.summary["mean"]
    assert mean["shared"]["loss"] == mean["personal"]["loss"] != mean["base"]["loss"]
