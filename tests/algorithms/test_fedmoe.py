"""FedMoE: experts held by one client are copied, by several averaged, by none unchanged."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.algorithm import ServerState, Update
from flexray.algorithms.fedmoe import FedMoe
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Lora
from tests.algorithms.toy import ToyTrainer, play

LORA, GATE, DOWN = "lora/s/b", "experts/m/gate_a", "experts/m/down_b"
ROWS = [1, 3, 2]


def trainer(k: int, targets: dict[str, np.ndarray], use: np.ndarray, rate=0.5, count=1) -> ToyTrainer:
    wanted = {n: torch.tensor(t[k])[None] for n, t in targets.items()}
    return ToyTrainer(
        wanted, torch.tensor([ROWS[k]]), rate=rate, count=count, shares_of_experts={"m": torch.tensor(use[k])[None]}
    )


def test_two_rounds_by_hand():
    """Four experts of one number each, 1, 2, 4 and 5 at first; half of the way to 8 (client 0) and 16 (client 1); weights 1/4, 3/4.

    Client 0 uses experts 0 and 1 most, client 1 experts 1 and 2. Round 0: client 0 has (1 + 8)/2 = 4.5 and (2 + 8)/2 = 5,
    client 1 (2 + 16)/2 = 9 and (4 + 16)/2 = 10. So 4.5 (copied), 1/4·5 + 3/4·9 = 8 (averaged), 10 (copied), 5 (unchanged).
    Round 1, client 0 alone: (4.5 + 8)/2 = 6.25 and (8 + 8)/2 = 8; the rest as it was.
    The attention's adapter from 0: 4 and 8, mean 1/4·4 + 3/4·8 = 7; then (7 + 8)/2 = 7.5.
    """
    use = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.6, 0.3, 0.0]])
    targets = {
        LORA: np.array([8.0, 16.0]).reshape(2, 1, 1),
        GATE: np.array([8.0, 16.0]).reshape(2, 1, 1, 1) * np.ones((2, 4, 1, 1)),
    }
    first = {
        LORA: torch.zeros(1, 1, dtype=torch.float64),
        GATE: torch.tensor([1.0, 2, 4, 5], dtype=torch.float64).view(4, 1, 1),
    }
    algorithm, mine, shapes = FedMoe(held=2), {}, {LORA: (1, 1), GATE: (4, 1, 1)}
    state = play(algorithm, ServerState(Update(first)), lambda k, _: trainer(k, targets, use), mine, [0, 1], 0, ROWS, 2, shapes)
    assert state.sent.weights[GATE].flatten().tolist() == [4.5, 8, 10, 5]
    assert float(state.sent.weights[LORA]) == 7
    state = play(algorithm, state, lambda k, _: trainer(k, targets, use), mine, [0], 1, ROWS, 2, shapes)
    assert state.sent.weights[GATE].flatten().tolist() == [6.25, 8, 10, 5]
    assert float(state.sent.weights[LORA]) == 7.5
    assert not state.sent.aux, "what each client holds goes no further than the server"


@pytest.mark.parametrize("held", [1, 2, 3, 9])
def test_against_a_loop_over_experts(held):
    """Three clients, three rounds, five experts with two tensors each, changing cohorts; more held than there are is all."""
    rng, algorithm, mine = np.random.default_rng(held), FedMoe(held=held, lora=Lora(rank=1)), {}
    shapes = {LORA: (2, 1), GATE: (5, 2, 3), DOWN: (5, 3, 2)}
    targets, use = {n: rng.normal(size=(3, *s)) for n, s in shapes.items()}, rng.random((3, 5))
    now = {n: rng.normal(size=s) for n, s in shapes.items()}
    holds = [set(sorted(range(5), key=lambda e, k=k: -use[k, e])[:held]) for k in range(3)]
    state = ServerState(Update({n: torch.tensor(t) for n, t in now.items()}))
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1]]):
        state = play(algorithm, state, lambda k, _: trainer(k, targets, use, 0.3, 2), mine, cohort, round, ROWS, 3, shapes)
        trained = [{n: targets[n][k] + 0.7**2 * (now[n] - targets[n][k]) for n in shapes} for k in range(3)]
        after = {n: t.copy() for n, t in now.items()}
        after[LORA] = sum(ROWS[k] * trained[k][LORA] for k in cohort) / sum(ROWS[k] for k in cohort)
        for n in (GATE, DOWN):
            for e in range(5):
                holders = [k for k in cohort if e in holds[k]]
                if holders:
                    after[n][e] = sum(ROWS[k] * trained[k][n][e] for k in holders) / sum(ROWS[k] for k in holders)
        now = after
        for n, t in now.items():
            np.testing.assert_allclose(state.sent.weights[n].numpy(), t, atol=1e-10)


def test_only_held_experts_go_up():
    shapes = {LORA: (2, 1), GATE: (8, 4, 16), "experts/n/gate_a": (1, 4, 16)}
    up, down = FedMoe(held=2).up(shapes), FedMoe(held=2).down(shapes, 3)
    assert up.weights == {LORA: (2, 1), GATE: (2, 4, 16), "experts/n/gate_a": (1, 4, 16)}
    assert up.aux == {"held/m": (2,), "held/n": (1,)}
    assert (down.weights, down.aux) == (shapes, {})


def test_a_client_without_experts_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.held: expected at least 1 expert that a client trains, got 0"):
        Experiment(algorithm={"name": "fedmoe", "held": 0})


def test_on_the_model_only_experts_that_somebody_holds_have_moved(small, tmp_path):
    """With weight decay too: every B, which starts at zero, has moved where the expert is held, and nowhere else."""
    train = {"weight_decay": 0.1}
    run = api.simulate(small(algorithm={"name": "fedmoe", "held": 1}, train=train, clients=2), tmp_path / "run")
    server = load_file(run.path / "server.safetensors")
    held: dict[str, set[int]] = {}
    for file in (run.path / "private").rglob("*.safetensors"):
        for name, t in load_file(file).items():
            held.setdefault(name.partition("held/")[2], set()).update(t.tolist())
    checked = 0
    for name, t in server.items():
        part, _, site = name.partition("|")[2].partition("/")
        block, _, last = site.rpartition("/")
        if part == "experts" and last.endswith("_b"):
            moved = {e for e in range(len(t)) if t[e].any()}
            assert moved == held[block], name
            checked += 1
    assert checked >= 4
