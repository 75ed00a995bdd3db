"""Ditto by hand, and against a plain loop."""

import numpy as np
import pytest

from flexray.algorithms.ditto import Ditto
from flexray.algorithms.fedavg import FedAvg
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of

PARTS = ("lora", "own")


def test_two_rounds_by_hand():
    # strength = 1, one step of rate ½. The shared part as in fedavg: 0, 3.5, 5.25.
    # v_0 from 0, near θ⁰ = 0: −½·(−4 + 0) → 2; near θ¹ = 3.5: −½·((2 − 4) + (2 − 3.5)) → 3.75.
    # v_1 from 0: → 4; then −½·((4 − 8) + (4 − 3.5)) → 5.75.
    f, method = by_hand(parts=PARTS), Ditto(strength=1)
    assert_close(f.played(method, [(0, 1)] * 2), [[3.5], [5.25]])
    assert_close([f.served(method, k, "own") for k in (0, 1)], [[3.75], [5.75]])


def test_who_joins_late_starts_where_all_started():
    # Client 1 first takes part in round 1: θ¹ = 2, v_1 from θ⁰ = 0: −½·((0 − 8) + ½·(0 − 2)) → 4.5 (from θ¹ it were 5).
    f, method = by_hand(parts=PARTS), Ditto(strength=0.5)
    f.played(method, [(0,), (1,)])
    assert_close(f.served(method, 1, "own"), [4.5])


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    f, strength = at_random(PARTS), 0.4
    theta, after = f.start["lora"], []
    own = {k: f.start["lora"] for k in range(4)}
    for r, cohort in enumerate(cohorts):
        for k in cohort:
            own[k] = f.descend(k, own[k], r, more=lambda v, theta=theta: strength * (v - theta), part="own")
        theta = np.average([f.descend(k, theta, r) for k in cohort], axis=0, weights=[f.rows[k] for k in cohort])
        after.append(theta)
    assert_close(f.played(Ditto(strength=strength), cohorts), after)
    assert_close([vector_of(f.mine[k].weights, "own") for k in range(4)], [own[k] for k in range(4)])


def test_the_shared_part_is_that_of_fedavg():
    assert_close(at_random(PARTS).played(Ditto(strength=9), COHORTS), at_random().played(FedAvg(), COHORTS))


def test_only_the_shared_part_travels_and_only_the_own_one_serves():
    f, method = by_hand(parts=PARTS), Ditto()
    f.played(method, [(0, 1)])
    assert set(f.state.sent.weights) == {"lora/x/a"} and not f.state.sent.aux
    assert set(f.mine[0].weights) == set(method.personal(f.trainer(0, 1), f.state.sent, f.mine[0])) == {"own/x/a"}


def test_both_take_all_steps_on_batches_of_their_own():
    f = by_hand(parts=PARTS)
    trainer, sent = f.trainer(0, 0), f.open(Ditto()).sent
    sent = type(sent)({n: t[None] for n, t in sent.weights.items()})
    Ditto().client(trainer, sent, Ditto().start(trainer, sent))
    assert [(call["steps"], call["stream"]) for call in trainer.calls] == [(None, 0), (None, 1)]


def test_defaults():
    assert_documented(Ditto, strength=0.1)


def test_a_negative_strength_is_refused():
    assert "algorithm.strength: expected a number >= 0, got -0.5" in refusal("ditto", strength=-0.5)
