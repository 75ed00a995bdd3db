"""FedYogi by hand, and against a plain loop."""

from math import sqrt

import numpy as np
import pytest

from flexray.algorithms.fedyogi import FedYogi
from flexray.state import below
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of


def test_three_rounds_by_hand():
    # Targets 5 and 9: the clients' mean is half the way to ¼·5 + ¾·9 = 8. lr = 2, betas ½, tau = 1, so v starts at 1.
    # Δ = 4: m = 2, v = 1 + ½·16 = 9 (16 is above v); θ = 2·2/(3 + 1) = 1.
    # Δ = 3.5: m = 2.75, v = 9 + ½·12.25 = 15.125; θ = 1 + 2·2.75/(√15.125 + 1) = 2.125 (nearly).
    # Δ² = (½·(8 − θ))² = 8.6… is now below v, which falls by half of it: 10.8….
    f, method = by_hand(targets=(5, 9)), FedYogi(lr=2, beta1=0.5, beta2=0.5, tau=1)
    two = 1 + 5.5 / (sqrt(15.125) + 1)
    delta = (8 - two) / 2
    m, v = (2.75 + delta) / 2, 15.125 - delta**2 / 2
    assert_close(f.played(method, [(0, 1)] * 3), [[1], [two], [two + 2 * m / (sqrt(v) + 1)]])
    assert abs(vector_of(below("v", f.state.kept), "lora") - 10.81) < 0.005


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    """Number by number."""
    f, theta, after = at_random(), at_random().start["lora"].copy(), []
    m, v = np.zeros(7), np.full(7, 0.05**2)
    for r, cohort in enumerate(cohorts):
        mean = np.average([f.descend(k, theta, r) for k in cohort], axis=0, weights=[f.rows[k] for k in cohort])
        delta = mean - theta
        for i, d in enumerate(delta):
            m[i] = 0.6 * m[i] + 0.4 * d
            v[i] = v[i] - 0.1 * d**2 if v[i] > d**2 else v[i] + 0.1 * d**2
            theta[i] += 0.1 * m[i] / (sqrt(v[i]) + 0.05)
        after.append(theta.copy())
    assert_close(f.played(FedYogi(lr=0.1, beta1=0.6, beta2=0.9, tau=0.05), cohorts), after)
    assert_close([vector_of(below(x, f.state.kept), "lora") for x in "mv"], [m, v])


def test_defaults():
    assert_documented(FedYogi, lr=1e-3, beta1=0.9, beta2=0.99, tau=1e-3)


def test_refusals():
    assert "algorithm.tau: expected a number above 0, got 0.0" in refusal("fedyogi", tau=0)
    assert "algorithm.lr: expected a number above 0, got -1.0" in refusal("fedyogi", lr=-1)
    assert "algorithm.beta2: expected at least 0 and less than 1, got 1.0" in refusal("fedyogi", beta2=1)
