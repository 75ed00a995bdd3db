"""FlexLoRA: the product of what travels is the best approximation of the mean product, and its first ranks that of fewer."""

import numpy as np
import pytest
import torch

from flexray import api
from flexray.algorithm import Payload, ServerState, Update
from flexray.algorithms.flexlora import FlexLora
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

A, B = "lora/s/a", "lora/s/b"
ROWS = [1, 3, 2]


def doubles(**tensors) -> dict[str, torch.Tensor]:
    return {f"lora/s/{n}": torch.tensor(t, dtype=torch.float64) for n, t in tensors.items()}


def test_by_hand():
    """1/4·(4,0)ᵀ(1,0) + 3/4·(0,4)ᵀ(0,1) = diag(1, 3). Of rank 1 that is diag(0, 3), with A of length 1 and B of length 3;
    of rank 2 all of it, the larger one first.
    """
    updates = [Update(doubles(a=[[1, 0]], b=[[4], [0]])), Update(doubles(a=[[0, 1]], b=[[0], [4]]))]
    one = FlexLora(lora=Lora(rank=1)).combine(updates, [0.25, 0.75]).weights
    torch.testing.assert_close(one[B] @ one[A], torch.diag(torch.tensor([0.0, 3.0], dtype=torch.float64)))
    torch.testing.assert_close(one[A].norm(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(one[B].norm(), torch.tensor(3.0, dtype=torch.float64))
    padded = [Update(doubles(a=[[1, 0], [0, 0]], b=[[4, 0], [0, 0]])), Update(doubles(a=[[0, 1], [0, 0]], b=[[0, 0], [4, 0]]))]
    two = FlexLora(lora=Lora(rank=2)).combine(padded, [0.25, 0.75]).weights
    torch.testing.assert_close(two[B] @ two[A], torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64)))
    torch.testing.assert_close(two[B][:, :1] @ two[A][:1], torch.diag(torch.tensor([0.0, 3.0], dtype=torch.float64)))


def test_against_a_dense_svd():
    """Clients of ranks 1, 3 and 2 over three rounds, against numpy: leading corners down and up, mean of the products, SVD."""
    rng, algorithm = np.random.default_rng(3), FlexLora(ranks=(1, 3, 2), lora=Lora(rank=3))
    a, b, mine, shapes = rng.normal(size=(3, 3, 6)), rng.normal(size=(3, 5, 3)), {}, {A: (3, 6), B: (5, 3)}
    for k, rank in enumerate(algorithm.ranks):
        a[k, rank:], b[k, :, rank:] = 0, 0  # with zero A and B beyond its rank a client's gradient there is zero
    state = ServerState(Update(doubles(a=rng.normal(size=(3, 6)), b=np.zeros((5, 3)))))
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [0, 1, 2]]):

        def make(k, _):
            return ToyTrainer({A: torch.tensor(a[k])[None], B: torch.tensor(b[k])[None]}, torch.tensor([ROWS[k]]))

        came = {n: t.numpy().copy() for n, t in state.sent.weights.items()}
        state = play(algorithm, state, make, mine, cohort, round, ROWS, 3, shapes)
        mean, total = np.zeros((5, 6)), sum(ROWS[k] for k in cohort)
        for k in cohort:
            r = algorithm.ranks[k]
            own_a, own_b = (came[A][:r] + a[k, :r]) / 2, (came[B][:, :r] + b[k, :, :r]) / 2
            mean += ROWS[k] / total * own_b @ own_a
        u, s, vt = np.linalg.svd(mean)
        now = {n: t.numpy() for n, t in state.sent.weights.items()}
        for r in (1, 2, 3):  # what a client of this rank gets
            np.testing.assert_allclose(now[B][:, :r] @ now[A][:r], u[:, :r] * s[:r] @ vt[:r], atol=1e-10)
        np.testing.assert_allclose(now[A] @ now[A].T, np.eye(3), atol=1e-10)
        np.testing.assert_allclose(np.linalg.norm(now[B], axis=0), s[:3], atol=1e-10)


def test_a_layer_without_anything_learnt_keeps_its_a():
    """Also when everybody in the cohort is of lower rank: else the rest of A would be zero for ever."""
    algorithm, first = FlexLora(ranks=(1,), lora=Lora(rank=2)), doubles(a=[[1, 2], [3, 4]], b=[[0, 0], [0, 0]])
    state = ServerState(Update(first))
    targets = {n: t[None] for n, t in doubles(a=[[1, 2], [0, 0]], b=[[0, 0], [0, 0]]).items()}
    state = play(
        algorithm, state, lambda k, _: ToyTrainer(targets, torch.tensor([1])), {}, [0], 0, [1], 1, {A: (2, 2), B: (2, 2)}
    )
    assert all(torch.equal(t, first[n]) for n, t in state.sent.weights.items())


def test_ranks_that_nobody_used_can_be_learnt_later():
    """A cohort of rank 1 in a server of rank 2: the second row of A is no zero, though B's second column is."""
    algorithm = FlexLora(ranks=(1, 2), lora=Lora(rank=2))
    after = algorithm.combine([Update(doubles(a=[[1, 0, 0], [0, 0, 0]], b=[[2, 0], [0, 0]]))], [1.0]).weights
    torch.testing.assert_close(after[A] @ after[A].mT, torch.eye(2, dtype=torch.float64))
    assert after[B][:, 1].abs().max() < 1e-12


def test_a_layer_narrower_than_the_rank_is_filled_with_zeros():
    algorithm, rng = FlexLora(lora=Lora(rank=3)), np.random.default_rng(4)
    update = Update(doubles(a=rng.normal(size=(3, 2)), b=rng.normal(size=(2, 3))))
    after = algorithm.combine([update, update], [0.25, 0.75]).weights
    assert (after[A].shape, after[B].shape) == ((3, 2), (2, 3))
    torch.testing.assert_close(after[B] @ after[A], update.weights[B] @ update.weights[A])


def test_a_client_gets_and_sends_its_corner():
    algorithm = FlexLora(ranks=(1, 4), lora=Lora(rank=4))
    whole = algorithm.up({A: (4, 6), B: (5, 4)})
    assert whole == algorithm.down({A: (4, 6), B: (5, 4)}, 2) == algorithm.cut(whole, 1) == algorithm.cut(whole, 3)
    assert algorithm.cut(whole, 2) == Payload({A: (1, 6), B: (5, 1)})


@pytest.mark.parametrize(("ranks", "got"), [((2, 9), 9), ((0,), 0)])
def test_ranks_outside_are_refused(ranks, got):
    with pytest.raises(ConfigError, match=rf"algorithm\.ranks: expected 1 to lora\.rank \(8\), got {got}; lower them"):
        Experiment(algorithm={"name": "flexlora", "ranks": ranks})


@pytest.mark.parametrize("name", ["flexlora", "hetlora"])
def test_clients_of_different_rank_sit_beside_each_other_on_the_model(small, tmp_path, name):
    """Ranks 1, 4 and 2 in groups of two and one are as one by one; the ledger counts each client's own corner."""
    algorithm = {"name": name, "ranks": [1, 4, 2], "lora": {"rank": 4}}
    train = {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1}
    runs = [
        api.simulate(small(algorithm=algorithm, train=train, placement="pooled", seats=seats), tmp_path / str(seats))
        for seats in (1, 2)
    ]
    losses = [run.summary["mean"]["personal"]["loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for run in runs:
        counted = {(r["client"], r["direction"]): r["bytes"] for r in run.bytes()}
        assert counted[1, "up"] == counted[1, "down"] == 4 * counted[0, "up"] == 2 * counted[2, "up"]
