"""FedAdagrad by hand, and against a plain loop."""

from math import sqrt

import numpy as np
import pytest

from flexray.algorithms.fedadagrad import FedAdagrad
from flexray.state import below
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of


def test_two_rounds_by_hand():
    # Targets 5 and 9: the clients' mean is half the way to ¼·5 + ¾·9 = 8. lr = 4, beta1 = ½, tau = 3, so v starts at 9.
    # Δ = 4: m = 2, v = 9 + 16 = 25; θ = 4·2/(5 + 3) = 1. Δ = 3.5: m = ½·2 + ½·3.5 = 2.75, v = 25 + 12.25 = 37.25;
    # θ = 1 + 4·2.75/(√37.25 + 3) = 2.2083…
    f, method = by_hand(targets=(5, 9)), FedAdagrad(lr=4, beta1=0.5, tau=3)
    assert_close(f.played(method, [(0, 1)] * 2), [[1], [1 + 11 / (sqrt(37.25) + 3)]])
    assert vector_of(below("m", f.state.kept), "lora") == 2.75 and vector_of(below("v", f.state.kept), "lora") == 37.25


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
            v[i] = v[i] + d**2
            theta[i] += 0.1 * m[i] / (sqrt(v[i]) + 0.05)
        after.append(theta.copy())
    assert_close(f.played(FedAdagrad(lr=0.1, beta1=0.6, tau=0.05), cohorts), after)
    assert_close([vector_of(below(x, f.state.kept), "lora") for x in "mv"], [m, v])


def test_defaults():
    assert_documented(FedAdagrad, lr=1e-3, beta1=0.9, tau=1e-3)


def test_refusals():
    assert "algorithm.tau: expected a number above 0, got 0.0" in refusal("fedadagrad", tau=0)
    assert "algorithm.lr: expected a number above 0, got -1.0" in refusal("fedadagrad", lr=-1)
    assert "algorithm.beta1: expected at least 0 and less than 1, got 1.0" in refusal("fedadagrad", beta1=1)
