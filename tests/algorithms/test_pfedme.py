"""pFedMe by hand, and against a plain loop."""

import numpy as np
import pytest

from flexray.algorithms.pfedme import PFedMe
from flexray.config import Experiment
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of

PARTS = ("lora", "own")


def test_one_round_by_hand():
    # strength = 2, lr = ¼ (so w goes half the way to θ̂), 4 steps of rate ¼, 2 in each local round. Client 0, w = θ̂ = 0:
    # θ̂ = 0 − ¼·(−4 + 0) = 1; 1 − ¼·(−3 + 2·1) = 1.25; w = ½·1.25 = 0.625.
    # θ̂ = 1.25 − ¼·(−2.75 + 2·0.625) = 1.625; 1.625 − ¼·(−2.375 + 2·1) = 1.71875; w = 0.625 + ½·(1.71875 − 0.625) = 1.171875.
    # Client 1: twice that. Mean of w: ¼·1.171875 + ¾·2.34375 = 2.05078125; mix = ½ takes half of it.
    f, method = by_hand(parts=PARTS, steps=4, rate=0.25), PFedMe(strength=2, lr=0.25, inner=2, mix=0.5)
    assert_close(f.played(method, [(0, 1)]), [[1.025390625]])
    assert_close([f.served(method, k, "own") for k in (0, 1)], [[1.71875], [3.4375]])


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    """Algorithm 1: T rounds of R local rounds of K inner steps."""
    f, strength, lr, inner, mix = at_random(PARTS, steps=6), 1.5, 0.2, 3, 0.7
    h, t, w, after, best = f.curvature["own"], f.targets["own"], f.start["lora"], [], {}
    for r, cohort in enumerate(cohorts):
        ends = []
        for k in cohort:
            local, theta = w, w
            for _ in range(f.steps // inner):
                for _ in range(inner):
                    theta = theta - f.rates[r] * (h[k] * (theta - t[k]) + strength * (theta - local))
                local = local - lr * strength * (local - theta)
            ends.append(local)
            best[k] = theta
        w = (1 - mix) * w + mix * np.average(ends, axis=0, weights=[f.rows[k] for k in cohort])
        after.append(w)
    assert_close(f.played(PFedMe(strength, lr, inner, mix), cohorts), after)
    assert_close([vector_of(f.mine[k].weights, "own") for k in range(4)], [best[k] for k in range(4)])


def test_inner_steps_share_one_batch_and_local_rounds_do_not():
    f = by_hand(parts=PARTS, steps=6)
    trainer, sent = f.trainer(0, 0), f.open(PFedMe()).sent
    sent = type(sent)({n: t[None] for n, t in sent.weights.items()})
    PFedMe(inner=2).client(trainer, sent, PFedMe().start(trainer, sent))
    assert [(c["steps"], c["stream"], c["same_batch"]) for c in trainer.calls] == [(2, i, True) for i in range(3)]


def test_defaults():
    assert_documented(PFedMe, strength=15.0, lr=0.01, inner=5, mix=1.0)


def test_refusals():
    assert "algorithm.inner: expected a divisor of train.steps (20), got 3" in refusal(
        "pfedme", {"train": {"steps": 20}}, inner=3
    )
    assert "algorithm.inner: expected a divisor of train.steps (3), got 5" in refusal("pfedme", {"train": {"steps": 3}})
    for key in ("strength", "lr", "inner", "mix"):
        assert f"algorithm.{key}: expected a number above 0, got 0" in refusal("pfedme", None, **{key: 0})
    assert "algorithm.lr: expected at most 1/strength = 0.0666667, got 0.1" in refusal("pfedme", lr=0.1)
    Experiment(algorithm={"name": "pfedme", "inner": 4}, train={"steps": 12})
