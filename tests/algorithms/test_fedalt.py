"""FedALT: beside its own adapter every client has the mean of the others', never of its own."""

import numpy as np
import torch

from flexray.algorithm import ServerState, Update
from flexray.algorithms.fedalt import FedAlt
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

OWN, REST, MIXER = "own/s/b", "rest/s/b", "mixer/s/bias"
SHAPES = {OWN: (2, 1), REST: (2, 1), MIXER: (2,)}


def trainer(k: int, round: int, rows, targets: np.ndarray, rate=0.5, count=1) -> ToyTrainer:
    """Of one client, towards its target and a mixer of 2; what is called `rest` has no target: it must not be trained."""
    wanted = {OWN: torch.tensor(targets[k])[None], MIXER: torch.full((1, 2), 2.0, dtype=torch.float64)}
    start = {OWN: torch.zeros(2, 1, dtype=torch.float64), MIXER: torch.zeros(2, dtype=torch.float64)}
    return ToyTrainer(wanted, torch.tensor([rows[k]]), rate=rate, count=count, round=round, start=start)


def rests(algorithm, state, mine, round, rows, targets) -> list[np.ndarray]:
    """What each client has of the others before `round`."""
    sent = Update({n: t[None] for n, t in state.sent.weights.items()})
    served = [algorithm.personal(trainer(k, round, rows, targets), sent, mine[k]) for k in sorted(mine)]
    assert all(set(s) == {OWN, REST, MIXER} for s in served)
    return [s[REST][0].numpy() for s in served]


def test_three_rounds_by_hand():
    """Rows 1, 1, 2, so p = 1/4, 1/4, 1/2; targets 8, 16, 4, half of the way from 0.

    Round 0, all: own 4, 8, 2, mean 1 + 2 + 1 = 4. Others: (8/4 + 2/2)/(3/4) = 4; (4/4 + 2/2)/(3/4) = 8/3; (4/4 + 8/4)/(1/2) = 6.
    Round 1, clients 0 and 2, p = 1/3 and 2/3: own 6 and 3, mean 4. Others: 3 for client 0, 6 for client 2; client 1 was not
    there, so for it they are all others: 4.
    Round 2, client 1 alone: own (8 + 16)/2 = 12, the mean; which it keeps, having no other.
    """
    rows, algorithm, mine = [1, 1, 2], FedAlt(Lora(rank=1)), {}
    targets = np.array([8.0, 16.0, 4.0]).reshape(3, 1, 1) * np.ones((3, 2, 1))
    state = ServerState(Update({REST: torch.zeros(2, 1, dtype=torch.float64)}))
    found = []
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1]]):
        state = play(algorithm, state, lambda k, t: trainer(k, t, rows, targets), mine, cohort, round, rows, 3, SHAPES)
        found.append([float(r[0, 0]) for r in rests(algorithm, state, mine, round + 1, rows, targets)])
    np.testing.assert_allclose(found, [[4, 8 / 3, 6], [3, 4, 6], [12, 12, 12]], atol=1e-10)
    assert [float(mine[k].weights[OWN][0, 0, 0]) for k in range(3)] == [6, 12, 3]


def test_against_the_plain_mean_over_the_others():
    """Four clients, seven rounds with cohorts of all sizes: Σ n_j θ_j / Σ n_j over those of the last cohort but oneself."""
    rng, rows, algorithm, mine = np.random.default_rng(7), [5, 1, 3, 2], FedAlt(Lora(rank=1)), {}
    targets, own = rng.normal(size=(4, 2, 1)), [np.zeros((2, 1)) for _ in range(4)]
    state = ServerState(Update({REST: torch.tensor(rng.normal(size=(2, 1)))}))
    for round, cohort in enumerate([[0, 1, 2, 3], [1, 3], [0, 1, 2], [2], [0, 3], [0, 1, 2, 3], [1, 2]]):
        state = play(algorithm, state, lambda k, t: trainer(k, t, rows, targets, 0.3, 2), mine, cohort, round, rows, 4, SHAPES)
        for k in cohort:
            own[k] = targets[k] + 0.7**2 * (own[k] - targets[k])
        for k, rest in enumerate(rests(algorithm, state, mine, round + 1, rows, targets)):
            others = [j for j in cohort if j != k] or cohort
            wanted = sum(rows[j] * own[j] for j in others) / sum(rows[j] for j in others)
            np.testing.assert_allclose(rest, wanted, atol=1e-10)
            np.testing.assert_allclose(mine[k].weights[OWN][0].numpy(), own[k], atol=1e-12)


def test_before_anybody_has_trained_the_others_are_what_came():
    targets, algorithm = np.ones((1, 2, 1)), FedAlt(Lora(rank=1))
    first = trainer(0, 0, [1], targets)
    sent = Update({REST: torch.full((1, 2, 1), 3.0, dtype=torch.float64)})
    mine = algorithm.start(first, sent)
    served = algorithm.personal(first, sent, mine)
    assert torch.equal(served[REST], sent.weights[REST])
    assert not served[OWN].any(), "a newcomer's own adapter is a new one, whenever it comes"
    assert not served[MIXER].any(), "a new mixer weighs both alike"


def test_one_adapter_crosses_each_way_and_only_own_and_mixer_are_trained():
    algorithm, targets = FedAlt(Lora(rank=1)), np.ones((1, 2, 1))
    assert algorithm.up(SHAPES).weights == algorithm.down(SHAPES, 3).weights == {REST: (2, 1)}
    first, sent = trainer(0, 0, [1], targets), Update({REST: torch.zeros(1, 2, 1, dtype=torch.float64)})
    algorithm.client(first, sent, algorithm.start(first, sent))
    assert [call["train"] for call in first.calls] == [{"own", "mixer"}]
