"""FLAME: an expert's mean weighs clients by their rows and by how often they used it."""

import numpy as np
import pytest
import torch

from flexray import api
from flexray.algorithm import ServerState, Update
from flexray.algorithms.flame import Flame
from flexray.config import Experiment
from flexray.errors import ConfigError
from tests.algorithms.toy import ToyTrainer, play

LORA, GATE, DOWN = "lora/s/b", "experts/m/gate_a", "experts/m/down_b"
ROWS = [1, 3, 2]


def trainer(k: int, targets: dict[str, np.ndarray], tokens: np.ndarray, rate=0.5, count=1) -> ToyTrainer:
    wanted = {n: torch.tensor(t[k])[None] for n, t in targets.items()}
    used = {"m": torch.tensor(tokens[k], dtype=torch.float64)[None]}
    return ToyTrainer(wanted, torch.tensor([ROWS[k]]), rate=rate, count=count, tokens_of_experts=used)


@pytest.mark.parametrize(
    ("temperature", "first", "second"),
    [(1.0, 0.4 * 4 + 0.6 * 8, 0.4 * 7.2 + 0.6 * 11.2), (2.0, 4 / 7 * 4 + 3 / 7 * 8, None), (0.0, 1 / 4 * 4 + 3 / 4 * 8, None)],
)
def test_by_hand(temperature, first, second):
    """Three experts from 0, half of the way to 8 and 16 in one step, so 4 and 8; rows 1 and 3; tokens (4, 0, 0) and (2, 3, 0).

    Expert 0 by n·a^t: t = 1: 4 and 3·2, so 0.4 and 0.6; t = 2: 16 and 3·4, so 4/7 and 3/7; t = 0: 1 and 3.
    Expert 1: only the second used it, so 8. Expert 2: nobody, so 0 as before. The attention's: 1/4·4 + 3/4·8 = 7.
    Round 1 with t = 1: expert 0 from 6.4: 7.2 and 11.2.
    """
    targets = {
        LORA: np.array([8.0, 16.0]).reshape(2, 1, 1),
        GATE: np.array([8.0, 16.0]).reshape(2, 1, 1, 1) * np.ones((2, 3, 1, 1)),
    }
    tokens, shapes = np.array([[4, 0, 0], [2, 3, 0]]), {LORA: (1, 1), GATE: (3, 1, 1)}
    algorithm, state = (
        Flame(temperature),
        ServerState(Update({n: torch.zeros(s, dtype=torch.float64) for n, s in shapes.items()})),
    )
    state = play(algorithm, state, lambda k, _: trainer(k, targets, tokens), {}, [0, 1], 0, ROWS, 2, shapes)
    np.testing.assert_allclose(state.sent.weights[GATE].flatten().numpy(), [first, 8, 0], atol=1e-12)
    assert float(state.sent.weights[LORA]) == 7
    if second is not None:
        state = play(algorithm, state, lambda k, _: trainer(k, targets, tokens), {}, [0, 1], 1, ROWS, 2, shapes)
        np.testing.assert_allclose(float(state.sent.weights[GATE][0]), second, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_against_a_loop_over_experts(temperature):
    """Three clients of unlike steps, three rounds, five experts, some unused; weights n_k·(a/S)^t written out."""
    rng, algorithm = np.random.default_rng(9), Flame(temperature)
    shapes, steps = {LORA: (2, 1), GATE: (5, 2, 3), DOWN: (5, 3, 2)}, [1, 2, 4]
    targets, now = {n: rng.normal(size=(3, *s)) for n, s in shapes.items()}, {n: rng.normal(size=s) for n, s in shapes.items()}
    tokens = rng.integers(1, 50, (3, 5)) * (rng.random((3, 5)) > 0.4)
    tokens[:, 4] = 0
    state = ServerState(Update({n: torch.tensor(t) for n, t in now.items()}))
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1]]):
        state = play(
            algorithm, state, lambda k, _: trainer(k, targets, tokens, 0.3, steps[k]), {}, cohort, round, ROWS, 3, shapes
        )
        trained = [{n: targets[n][k] + 0.7 ** steps[k] * (now[n] - targets[n][k]) for n in shapes} for k in range(3)]
        after = {n: t.copy() for n, t in now.items()}
        after[LORA] = sum(ROWS[k] * trained[k][LORA] for k in cohort) / sum(ROWS[k] for k in cohort)
        for n in (GATE, DOWN):
            for e in range(5):
                weight = {k: ROWS[k] * (tokens[k, e] / steps[k]) ** temperature for k in cohort if tokens[k, e]}
                if weight:
                    after[n][e] = sum(w * trained[k][n][e] for k, w in weight.items()) / sum(weight.values())
        now = after
        for n, t in now.items():
            np.testing.assert_allclose(state.sent.weights[n].numpy(), t, atol=1e-10)


def test_every_expert_and_a_count_of_each_go_up():
    shapes = {LORA: (2, 1), GATE: (8, 4, 16), "experts/n/gate_a": (6, 4, 16)}
    up, down = Flame().up(shapes), Flame().down(shapes, 3)
    assert (up.weights, up.aux) == (shapes, {"counts/m": (8,), "counts/n": (6,)})
    assert (down.weights, down.aux) == (shapes, {})


def test_a_negative_temperature_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.temperature: expected at least 0, got -1"):
        Experiment(algorithm={"name": "flame", "temperature": -1})


def test_with_one_client_the_mean_is_its_own_update_on_the_model(small, tmp_path):
    """Whatever the temperature: weights of one client cancel."""
    losses = [
        api.simulate(
            small(
                algorithm={"name": "flame", "temperature": t}, clients=1, train={"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1}
            ),
            tmp_path / str(t),
        ).summary["mean"]["personal"]["loss"]
        for t in (0.0, 2.0)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
