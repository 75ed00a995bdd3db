"""FedAdam by hand, and against a plain loop."""

from math import sqrt

import numpy as np
import pytest

from flexray.algorithms.fedadam import FedAdam
from flexray.state import below
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of


def test_two_rounds_by_hand():
    # Targets 5 and 9: the clients' mean is half the way to ¼·5 + ¾·9 = 8. lr = 4, all else ½ but tau = 4, so v starts at 16.
    # Δ = 4: m = 2, v = ½·16 + ½·16 = 16; θ = 4·2/(4 + 4) = 1. Δ = 3.5: m = ½·2 + ½·3.5 = 2.75, v = ½·16 + ½·12.25 = 14.125;
    # θ = 1 + 4·2.75/(√14.125 + 4) = 2.4178…
    f, method = by_hand(targets=(5, 9)), FedAdam(lr=4, beta1=0.5, beta2=0.5, tau=4)
    assert_close(f.played(method, [(0, 1)] * 2), [[1], [1 + 11 / (sqrt(14.125) + 4)]])
    assert vector_of(below("m", f.state.kept), "lora") == 2.75 and vector_of(below("v", f.state.kept), "lora") == 14.125


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
            v[i] = 0.9 * v[i] + 0.1 * d**2
            theta[i] += 0.1 * m[i] / (sqrt(v[i]) + 0.05)
        after.append(theta.copy())
    assert_close(f.played(FedAdam(lr=0.1, beta1=0.6, beta2=0.9, tau=0.05), cohorts), after)
    assert_close([vector_of(below(x, f.state.kept), "lora") for x in "mv"], [m, v])


def test_defaults():
    assert_documented(FedAdam, lr=1e-3, beta1=0.9, beta2=0.99, tau=1e-3)


def test_refusals():
    assert "algorithm.tau: expected a number above 0, got 0.0" in refusal("fedadam", tau=0)
    assert "algorithm.lr: expected a number above 0, got -1.0" in refusal("fedadam", lr=-1)
    assert "algorithm.beta2: expected at least 0 and less than 1, got 1.0" in refusal("fedadam", beta2=1)
