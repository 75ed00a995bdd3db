"""FLEx and its variants: what is averaged, what stays, and who learns from which rows."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.algorithm import ServerState, Update
from flexray.algorithms.flex import Flex
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Graft
from flexray.server import Aggregate
from tests.algorithms.toy import ToyTrainer, play

ROWS = [1, 3, 2]
SHAPES = {"lora/s/a": (1, 2), "lora/s/b": (2, 1), "expert/m/down": (2, 3), "gate/m/weight": (1, 2)}
DIVIDED = {"a/s/a": (1, 2), "b/s/b": (2, 1), "expert/m/down": (2, 3), "gate/m/weight": (1, 2)}
INDEX = Graft(select="index", index=1)


def trainer(
    k: int, shapes: dict, targets: dict[str, np.ndarray], valid: dict[str, np.ndarray], rate=0.5, count=1
) -> ToyTrainer:
    """Of one client; whatever is its own starts at zero."""
    wanted, held = ({n: torch.tensor(t[k])[None] for n, t in some.items()} for some in (targets, valid))
    start = {n: torch.zeros(s, dtype=torch.float64) for n, s in shapes.items()}
    return ToyTrainer(wanted, torch.tensor([ROWS[k]]), rate=rate, count=count, valid_targets=held, start=start)


def first(algorithm: Flex, shapes: dict) -> ServerState:
    return ServerState(Update({n: torch.zeros(s, dtype=torch.float64) for n, s in algorithm.up(shapes).weights.items()}))


def test_two_rounds_by_hand():
    """Adapters, targets 2 and 6, half of the way, weights 1/4 and 3/4: 1 and 3, mean 2.5; then the second alone: 4.25.

    Expert and gate, targets 4 and 8, of each client its own: 2 and 4; then the second's 6, the first's still 2.
    """
    towards = [{n: 4.0 if n[0] in "eg" else 2.0 for n in SHAPES}, {n: 8.0 if n[0] in "eg" else 6.0 for n in SHAPES}]
    targets = {n: np.stack([np.full(s, t[n]) for t in towards]) for n, s in SHAPES.items()}
    algorithm, mine = Flex(), {}
    state = play(
        algorithm, first(algorithm, SHAPES), lambda k, _: trainer(k, SHAPES, targets, {}), mine, [0, 1], 0, ROWS, 2, SHAPES
    )
    assert set(state.sent.weights) == {"lora/s/a", "lora/s/b"}
    assert all((t == 2.5).all() for t in state.sent.weights.values())
    assert [float(mine[k].weights["expert/m/down"][0, 0, 0]) for k in (0, 1)] == [2, 4]
    state = play(algorithm, state, lambda k, _: trainer(k, SHAPES, targets, {}), mine, [1], 1, ROWS, 2, SHAPES)
    assert all((t == 4.25).all() for t in state.sent.weights.values())
    assert [float(mine[k].weights["gate/m/weight"][0, 0, 0]) for k in (0, 1)] == [2, 6]


@pytest.mark.parametrize(
    ("algorithm", "shared"),
    [
        (Flex(), {"lora/s/a", "lora/s/b"}),
        (Flex(share="a"), {"a/s/a"}),
        (Flex(expert="shared", graft=INDEX), {"lora/s/a", "lora/s/b", "expert/m/down"}),
        (Flex(gate_on="valid", gate_steps=3), {"lora/s/a", "lora/s/b"}),
        (Flex(share="a", expert="shared", graft=INDEX, gate_on="valid", gate_steps=3), {"a/s/a", "expert/m/down"}),
    ],
    ids=["plain", "share a", "expert shared", "gate on valid", "all three"],
)
def test_every_variant_against_plain_numpy(algorithm, shared):
    """Three clients, three rounds, changing cohorts; what crosses is what is averaged, and nothing else."""
    rng, mine = np.random.default_rng(10), {}
    shapes = DIVIDED if algorithm.share == "a" else SHAPES
    targets, valid = ({n: rng.normal(size=(3, *s)) for n, s in shapes.items()} for _ in range(2))
    theta, own = {n: np.zeros(shapes[n]) for n in shared}, {n: np.zeros((3, *s)) for n, s in shapes.items() if n not in shared}
    state = first(algorithm, shapes)
    for round, cohort in enumerate([[0, 1, 2], [0, 2], [1, 2]]):
        state = play(
            algorithm, state, lambda k, _: trainer(k, shapes, targets, valid, 0.3, 2), mine, cohort, round, ROWS, 3, shapes
        )
        assert set(state.sent.weights) == shared
        now = {n: np.zeros(shapes[n]) for n in shared}
        for k in cohort:
            for n in shapes:
                on_valid = n.startswith("gate") and algorithm.gate_on == "valid"
                goal, left = (valid[n][k], 0.7**3) if on_valid else (targets[n][k], 0.7**2)
                if n in shared:
                    now[n] += ROWS[k] / sum(ROWS[j] for j in cohort) * (goal + left * (theta[n] - goal))
                else:
                    own[n][k] = goal + left * (own[n][k] - goal)
        theta = now
        for n, t in theta.items():
            np.testing.assert_allclose(state.sent.weights[n].numpy(), t, atol=1e-12)
    for k in range(3):
        assert set(mine[k].weights) == set(own)
        for n, t in own.items():
            np.testing.assert_allclose(mine[k].weights[n][0].numpy(), t[k], atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"rule": "median"}, lambda values, _: np.median(values, 0)),
        ({"rule": "trimmed_mean", "trim": 0.25}, lambda values, _: np.sort(values, 0)[1:-1].mean(0)),
        ({}, lambda values, rows: np.tensordot(rows / rows.sum(), values, 1)),
    ],
    ids=["median", "trimmed_mean", "mean"],
)
def test_a_robust_rule_is_for_what_is_shared(rule, wanted):
    """Five clients, one of them far off; private parts of each are its own all the same."""
    rng, algorithm, mine, rows = np.random.default_rng(11), Flex(aggregate=Aggregate(**rule)), {}, [1, 3, 2, 5, 4]
    targets = {n: rng.normal(size=(5, *s)) for n, s in SHAPES.items()}
    for t in targets.values():
        t[3] *= 1000

    def make(k, _):
        return ToyTrainer({n: torch.tensor(t[k])[None] for n, t in targets.items()}, torch.tensor([rows[k]]),
                          start={n: torch.zeros(s, dtype=torch.float64) for n, s in SHAPES.items()})  # fmt: skip

    state = play(algorithm, first(algorithm, SHAPES), make, mine, range(5), 0, rows, 5, SHAPES)
    for n in ("lora/s/a", "lora/s/b"):
        np.testing.assert_allclose(state.sent.weights[n].numpy(), wanted(targets[n] / 2, np.array(rows)), atol=1e-10)
    for k in range(5):
        np.testing.assert_allclose(mine[k].weights["expert/m/down"][0].numpy(), targets["expert/m/down"][k] / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"expert": "shared"},
            r"algorithm\.graft\.select: expected index or random with `expert: shared`, got 'reconstruction'",
        ),
        (
            {"gate_on": "valid", "gate": {"mode": "open"}},
            r"algorithm\.gate_on: expected train with `gate\.mode: open`, got 'valid'",
        ),
        (
            {"gate_on": "valid", "gate": {"mode": "off"}},
            r"algorithm\.gate_on: expected train with `gate\.mode: off`, got 'valid'",
        ),
        ({"gate_steps": 3}, r"algorithm\.gate_steps: expected at least 1, with `gate_on: valid` only, got 3"),
        ({"gate_on": "valid", "gate_steps": 0}, r"algorithm\.gate_steps: expected at least 1, .* got 0"),
        ({"gate": {"mode": "in_place"}}, r"algorithm\.graft\.start: expected copy with `gate\.mode: in_place`, got 'identity'"),
        ({"aggregate": {"rule": "krum"}}, r"algorithm\.aggregate\.rule: expected at least 5 clients in a round .*, got 4"),
        (
            {"aggregate": {"rule": "trimmed_mean", "trim": 0.5}},
            r"algorithm\.aggregate\.trim: expected .* less than 0\.5, got 0\.5",
        ),
        (
            {"expert": "shared", "graft": {"select": "random"}, "gate": {"mode": "off"}},
            r"algorithm\.expert: expected private with `gate\.mode: off`, got 'shared'",
        ),
    ],
    ids=["shared expert", "gate open", "gate off on valid", "steps unused", "no steps", "in place", "krum", "trim", "gate off"],
)
def test_wrong_combinations_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Experiment(clients=4, algorithm={"name": "flex", **settings})


VARIANTS = {
    "share a": {"share": "a"},
    "shared expert": {"expert": "shared", "graft": {"select": "random"}},
    "gate on valid": {"gate_on": "valid", "gate_steps": 2},
    "in place": {"gate": {"mode": "in_place"}, "graft": {"start": "copy", "train": "lora", "calibration_rows": 4}},
    "median": {"aggregate": {"rule": "median"}},
    "paper": {"graft": {"start": "copy", "calibration_rows": 4}, "gate": {"init": "router_row"}},
    "route, two experts, adapters": {
        "graft": {"start": "copy", "train": "lora", "experts": 2, "calibration_rows": 4},
        "gate": {"mode": "route"},
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs_on_the_model_whoever_sits_together(small, tmp_path, name):
    """Groups of two and one are as one by one; what is private is in nobody's file but its owner's."""
    train, found = {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1}, []
    for seats in (1, 2):
        x = small(algorithm={"name": "flex", **VARIANTS[name]}, train=train, placement="pooled", seats=seats, rounds=1)
        run = api.simulate(x, tmp_path / str(seats))
        states = {c.name: load_file(sorted(c.glob("*"))[-1]) for c in (run.path / "private").iterdir()}
        found.append((load_file(run.path / "server.safetensors"), states, run.summary["mean"]["personal"]["loss"]))
    (server, states, loss), (beside, states_beside, loss_beside) = found
    assert loss == pytest.approx(loss_beside, rel=1e-4)
    travels = {p.name for p in x.algorithm.shared}
    assert {n.partition("|")[2].split("/")[0] for n in server if "|" in n} == travels
    for n, t in server.items():
        torch.testing.assert_close(beside[n], t, rtol=1e-3, atol=2e-6, msg=n)
    for client, own in states.items():
        assert {n.partition("|")[2].split("/")[0] for n in own} <= {p.name for p in x.algorithm.private}
        for n, t in own.items():
            torch.testing.assert_close(states_beside[client][n], t, rtol=1e-3, atol=2e-6, msg=n)
