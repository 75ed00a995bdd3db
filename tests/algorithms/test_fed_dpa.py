"""FedDPA: the global adapter is trained alone and averaged, the local one trained beside it and kept."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from flexray.algorithm import ServerState, Update
from flexray.algorithms.fed_dpa import FedDpa
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Lora
from flexray.state import part_of
from tests.algorithms.toy import ToyTrainer, play

GLOBAL, LOCAL, REPS = "global/s/b", "local/s/b", "anchors/reps"
ROWS = [1, 3, 2]
SHAPES = {GLOBAL: (2, 1), LOCAL: (2, 1), REPS: (5, 3)}


@dataclass
class Remembers(ToyTrainer):
    """Keeps the weights that each `fit` started from."""

    began: list[dict] = field(default_factory=list)

    def fit(self, weights, **how):
        self.began.append({n: t.clone() for n, t in weights.items()})
        return super().fit(weights, **how)


def trainer(k: int, towards: np.ndarray, local: np.ndarray, rate=0.5, count=1) -> Remembers:
    """Of one client, whose anchors are its number."""
    targets = {GLOBAL: torch.tensor(towards[k])[None], LOCAL: torch.tensor(local[k])[None]}
    start = {LOCAL: torch.zeros_like(targets[LOCAL][0]), REPS: torch.full((5, 3), float(k))}
    return Remembers(targets, torch.tensor([ROWS[k]]), rate=rate, count=count, start=start)


def test_two_rounds_by_hand():
    """Global: targets 2 and 6, weights 1/4 and 3/4: 1 and 3, mean 2.5. Local: targets 4 and 8: 2 and 4.

    Round 1, the second client alone: global (2.5 + 6)/2 = 4.25, local (4 + 8)/2 = 6; the first's is still 2.
    """
    towards, local = np.array([[[2.0]] * 2, [[6.0]] * 2]), np.array([[[4.0]] * 2, [[8.0]] * 2])
    algorithm, mine = FedDpa(lora=Lora(rank=1)), {}
    state = ServerState(Update({GLOBAL: torch.zeros(2, 1, dtype=torch.float64)}))
    state = play(algorithm, state, lambda k, _: trainer(k, towards, local), mine, [0, 1], 0, ROWS, 2, SHAPES)
    assert state.sent.weights[GLOBAL].tolist() == [[2.5]] * 2
    assert [mine[k].weights[LOCAL][0].tolist() for k in (0, 1)] == [[[2.0]] * 2, [[4.0]] * 2]
    state = play(algorithm, state, lambda k, _: trainer(k, towards, local), mine, [1], 1, ROWS, 2, SHAPES)
    assert state.sent.weights[GLOBAL].tolist() == [[4.25]] * 2
    assert [mine[k].weights[LOCAL][0].tolist() for k in (0, 1)] == [[[2.0]] * 2, [[6.0]] * 2]


def test_the_local_adapter_is_trained_beside_the_global_one_as_it_came():
    """Two fits on batches of their own: the global adapter alone; then the local one, with global and anchors in force but still."""
    towards, local = np.full((1, 2, 1), 2.0), np.full((1, 2, 1), 4.0)
    own, algorithm = trainer(0, towards, local), FedDpa(lora=Lora(rank=1))
    sent = Update({GLOBAL: torch.full((1, 2, 1), 7.0, dtype=torch.float64)})
    up, mine = algorithm.client(own, sent, algorithm.start(own, sent))
    assert [call["stream"] for call in own.calls] == [0, 1]
    assert [set(map(part_of, began)) for began in own.began] == [{"global"}, {"global", "local", "anchors"}]
    assert own.calls[1]["train"] == {"local"}
    assert torch.equal(own.began[1][GLOBAL], sent.weights[GLOBAL])
    assert set(up.weights) == {GLOBAL}
    assert set(mine.weights) == {LOCAL, REPS}


def test_against_plain_numpy():
    """Three clients, three rounds, changing cohorts; anchors never move."""
    rng, algorithm, mine = np.random.default_rng(6), FedDpa(lora=Lora(rank=1)), {}
    towards, local = rng.normal(size=(3, 2, 1)), rng.normal(size=(3, 2, 1))
    theta, own = rng.normal(size=(2, 1)), [np.zeros((2, 1)) for _ in range(3)]
    state = ServerState(Update({GLOBAL: torch.tensor(theta)}))
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1, 2]]):
        state = play(algorithm, state, lambda k, _: trainer(k, towards, local, 0.3, 2), mine, cohort, round, ROWS, 3, SHAPES)
        left, total, mean = 0.7**2, sum(ROWS[k] for k in cohort), np.zeros((2, 1))
        for k in cohort:
            mean += ROWS[k] / total * (towards[k] + left * (theta - towards[k]))
            own[k] = local[k] + left * (own[k] - local[k])
        theta = mean
        np.testing.assert_allclose(state.sent.weights[GLOBAL].numpy(), theta, atol=1e-12)
    for k in range(3):
        np.testing.assert_allclose(mine[k].weights[LOCAL][0].numpy(), own[k], atol=1e-12)
        assert (mine[k].weights[REPS] == k).all()
        assert set(algorithm.personal(trainer(k, towards, local), state.sent, mine[k])) == {GLOBAL, LOCAL, REPS}


@pytest.mark.parametrize(("key", "value"), [("prompts", 0), ("sharpness", 0.0)])
def test_values_that_make_no_sense_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"^algorithm\.anchors\.{key}: expected [^;]*, got {value}; [^;]*$"):
        Experiment(algorithm={"name": "fed_dpa", "anchors": {key: value}})
