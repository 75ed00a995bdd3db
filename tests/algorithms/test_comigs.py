"""CoMiGS: the generalist is averaged, the specialist stays, the router learns from valid rows."""

import numpy as np
import pytest
import torch

from flexray.algorithm import ServerState, Update
from flexray.algorithms.comigs import CoMiGS
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

GENERAL, SPECIAL, ROUTER = "generalist/s/b", "specialist/s/b", "router/s/bias"
ROWS = [1, 3, 2]
SHAPES = {GENERAL: (2, 1), SPECIAL: (2, 1), ROUTER: (2,)}


def trainer(k: int, targets: dict[str, np.ndarray], rate=0.5, count=1) -> ToyTrainer:
    """Of one client. The router has a target on valid rows only, the adapters on train rows only."""
    train = {n: torch.tensor(targets[n][k])[None] for n in (GENERAL, SPECIAL)}
    valid = {ROUTER: torch.tensor(targets[ROUTER][k])[None]}
    start = {SPECIAL: torch.zeros(2, 1, dtype=torch.float64), ROUTER: torch.zeros(2, dtype=torch.float64)}
    return ToyTrainer(train, torch.tensor([ROWS[k]]), rate=rate, count=count, valid_targets=valid, start=start)


def test_two_rounds_by_hand():
    """Half of the way per step, one step on train rows, two of the router on valid rows; weights 1/4 and 3/4.

    Generalist, targets 2 and 6: 1 and 3, mean 2.5; then 2.25 and 4.25, mean 3.75. Specialist, targets 4 and 8: 2 and 4,
    then 3 and 6. Router, target 8 for both: 0 → 4 → 6, then 7 → 7.5.
    """
    targets = {
        GENERAL: np.array([[[2.0]] * 2, [[6.0]] * 2]),
        SPECIAL: np.array([[[4.0]] * 2, [[8.0]] * 2]),
        ROUTER: np.full((2, 2), 8.0),
    }
    algorithm, mine = CoMiGS(router_steps=2, lora=Lora(rank=1)), {}
    state = ServerState(Update({GENERAL: torch.zeros(2, 1, dtype=torch.float64)}))
    for round, (general, special, router) in enumerate([(2.5, (2, 4), 6), (3.75, (3, 6), 7.5)]):
        state = play(algorithm, state, lambda k, _: trainer(k, targets), mine, [0, 1], round, ROWS, 2, SHAPES)
        assert state.sent.weights[GENERAL].tolist() == [[general]] * 2
        for k in (0, 1):
            assert mine[k].weights[SPECIAL][0].tolist() == [[special[k]]] * 2
            assert mine[k].weights[ROUTER][0].tolist() == [router] * 2


def test_against_plain_numpy():
    """Three clients, three rounds, changing cohorts, three router steps to two of the rest."""
    rng, algorithm, mine = np.random.default_rng(8), CoMiGS(router_steps=3, lora=Lora(rank=1)), {}
    targets = {n: rng.normal(size=(3, *shape)) for n, shape in SHAPES.items()}
    theta = rng.normal(size=(2, 1))
    special, router = np.zeros((3, 2, 1)), np.zeros((3, 2))
    state = ServerState(Update({GENERAL: torch.tensor(theta)}))
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1, 2]]):
        state = play(algorithm, state, lambda k, _: trainer(k, targets, 0.3, 2), mine, cohort, round, ROWS, 3, SHAPES)
        total, mean = sum(ROWS[k] for k in cohort), np.zeros((2, 1))
        for k in cohort:
            mean += ROWS[k] / total * (targets[GENERAL][k] + 0.7**2 * (theta - targets[GENERAL][k]))
            special[k] = targets[SPECIAL][k] + 0.7**2 * (special[k] - targets[SPECIAL][k])
            router[k] = targets[ROUTER][k] + 0.7**3 * (router[k] - targets[ROUTER][k])
        theta = mean
        np.testing.assert_allclose(state.sent.weights[GENERAL].numpy(), theta, atol=1e-12)
    for k in range(3):
        np.testing.assert_allclose(mine[k].weights[SPECIAL][0].numpy(), special[k], atol=1e-12)
        np.testing.assert_allclose(mine[k].weights[ROUTER][0].numpy(), router[k], atol=1e-12)


def test_who_learns_from_which_rows():
    targets = {n: np.ones((1, *shape)) for n, shape in SHAPES.items()}
    own, algorithm = trainer(0, targets), CoMiGS(router_steps=7)
    sent = Update({GENERAL: torch.zeros(1, 2, 1, dtype=torch.float64)})
    up, mine = algorithm.client(own, sent, algorithm.start(own, sent))
    assert [(set(c["train"]), c["split"], c["steps"]) for c in own.calls] == [
        ({"generalist", "specialist"}, "train", None),
        ({"router"}, "valid", 7),
    ]
    assert set(up.weights) == {GENERAL}
    assert set(mine.weights) == {SPECIAL, ROUTER}


def test_a_router_that_never_learns_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.router_steps: expected at least 1, got 0"):
        Experiment(algorithm={"name": "comigs", "router_steps": 0})
