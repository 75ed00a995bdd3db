"""FedPer by hand, and against a plain loop; its body and head add up to what the loss sees."""

import numpy as np
import pytest

from flexray.algorithms.fedper import FedPer
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, vector_of

PARTS = ("lora", "expert", "gate")


def test_two_rounds_by_hand():
    # All three parts start at 0 and add up; one step of rate ¼ moves each by a quarter of what is left.
    # Client 0: 4 are left, each part 1. Client 1: 2. θ = ¼·1 + ¾·2 = 1.75.
    # Client 0: 4 − 1.75 − 1 − 1 = 0.25: θ_0 = 1.8125, head 1.0625. Client 1: 8 − 1.75 − 4 = 2.25: θ_1 = 2.3125, head 2.5625.
    # θ = ¼·1.8125 + ¾·2.3125 = 2.1875.
    f, method = by_hand(rate=0.25, parts=PARTS, joint=True), FedPer()
    assert_close(f.played(method, [(0, 1)] * 2), [[1.75], [2.1875]])
    for part in ("expert", "gate"):
        assert_close([f.served(method, k, part) for k in (0, 1)], [[1.0625], [2.5625]])
    assert_close(f.served(method, 0, "lora"), [2.1875])


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    f = at_random(PARTS, joint=True)
    h, t, theta, after = f.curvature["lora"], f.targets["lora"], f.start["lora"], []
    head = {k: (f.start["expert"], f.start["gate"]) for k in range(4)}
    for r, cohort in enumerate(cohorts):
        bodies = []
        for k in cohort:
            body, (expert, gate) = theta, head[k]
            for _ in range(f.steps):
                g = f.rates[r] * h[k] * (body + expert + gate - t[k])
                body, expert, gate = body - g, expert - g, gate - g
            bodies.append(body)
            head[k] = expert, gate
        theta = np.average(bodies, axis=0, weights=[f.rows[k] for k in cohort])
        after.append(theta)
    assert_close(f.played(FedPer(), cohorts), after)
    for i, part in enumerate(("expert", "gate")):
        assert_close([vector_of(f.mine[k].weights, part) for k in range(4)], [head[k][i] for k in range(4)])


def test_the_head_never_leaves():
    assert {p.name: p.where for p in FedPer().parts} == {"lora": "shared", "expert": "private", "gate": "private"}


def test_defaults():
    assert_documented(FedPer)
