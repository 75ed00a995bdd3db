"""FedAvg by hand, and against a plain loop."""

import pytest

from flexray.algorithm import ClientState
from flexray.algorithms.fedavg import TUNING, FedAvg
from flexray.server import Aggregate
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal


def test_two_rounds_by_hand():
    # One step of rate ½ goes half the way: 0 → 2 and 4; θ = ¼·2 + ¾·4 = 3.5.
    # Then 3.5 → 3.75 and 5.75; θ = ¼·3.75 + ¾·5.75 = 5.25.
    assert_close(by_hand().played(FedAvg(), [(0, 1), (0, 1)]), [[3.5], [5.25]])


def test_weights_are_of_those_who_take_part():
    # Client 0 alone: 0 → 2, with weight 1; then client 1 alone: 2 → 5.
    assert_close(by_hand().played(FedAvg(), [(0,), (1,)]), [[2], [5]])


def plain(f, cohorts):
    theta, after = f.start["lora"], []
    for r, cohort in enumerate(cohorts):
        total = sum(f.rows[k] for k in cohort)
        theta = sum(f.rows[k] / total * f.descend(k, theta, r) for k in cohort)
        after.append(theta)
    return after


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    assert_close(at_random().played(FedAvg(), cohorts), plain(at_random(), cohorts))


def test_a_median_of_the_clients_by_hand():
    # Half the way from 0 to 4, 8 and 100: 2, 4 and 50, whatever their rows.
    f = by_hand(targets=(4, 8, 100))
    f.rows = (1, 3, 96)
    assert_close(f.played(FedAvg(aggregate=Aggregate("median")), [(0, 1, 2)]), [[4]])


def test_tuning_is_served_and_not_sent():
    # θ = 3.5 after a round; two steps of rate ½ from there leave a quarter of the way: 4 − ¼·0.5 = 3.875, 8 − ¼·4.5 = 6.875.
    f, method = by_hand(), FedAvg(tuning=2)
    assert_close(f.played(method, [(0, 1)]), [[3.5]])
    assert_close([f.served(method, k, "lora") for k in (0, 1)], [[3.875], [6.875]])
    assert_close(f.served(FedAvg(), 0, "lora"), [3.5])
    trainer = f.trainer(0, 0)
    method.personal(trainer, f.state.sent, ClientState())
    assert trainer.calls == [{"train": None, "steps": 2, "split": "train", "stream": TUNING, "same_batch": False}]


def test_tuning_as_a_plain_loop():
    f, method = at_random(), FedAvg(tuning=4)
    theta = f.played(method, COHORTS)[-1]
    for k in range(4):
        assert_close(f.served(method, k, "lora", round=5), f.descend(k, theta, 5, steps=4))


def test_nothing_is_private():
    assert FedAvg().private == () and not FedAvg().each and FedAvg(aggregate=Aggregate("median")).each


def test_defaults():
    assert_documented(FedAvg, tuning=0, aggregate=Aggregate("mean"))


def test_refusals():
    assert "algorithm.tuning: expected at least 0 steps, got -1" in refusal("fedavg", tuning=-1)
    after = {"evaluation": {"when": "after_steps"}}
    assert "algorithm.tuning: expected 0 with `evaluation.when: after_steps`, got 3" in refusal("fedavg", after, tuning=3)
    assert "algorithm.aggregate.rule: expected at least 5 clients in a round" in refusal(
        "fedavg", {"clients": 4}, aggregate={"rule": "krum"}
    )
