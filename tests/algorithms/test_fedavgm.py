"""FedAvgM by hand, and against a plain loop."""

import numpy as np
import pytest

from flexray.algorithms.fedavgm import FedAvgM
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of


def test_three_rounds_by_hand():
    # The clients' mean is half the way to ¼·4 + ¾·8 = 7. beta = ½, lr = 1:
    # Δ = 3.5, v = 3.5, θ = 3.5; Δ = 1.75, v = ½·3.5 + 1.75 = 3.5, θ = 7; Δ = 0, v = 1.75, θ = 8.75.
    f = by_hand()
    assert_close(f.played(FedAvgM(beta=0.5), [(0, 1)] * 3), [[3.5], [7], [8.75]])
    assert vector_of(f.state.kept, "lora").tolist() == [1.75]


def test_the_rate_is_not_in_the_momentum():
    # lr = ½: v = 3.5, θ = 1.75; Δ = 2.625, v = ½·3.5 + 2.625 = 4.375, θ = 1.75 + 2.1875 = 3.9375.
    assert_close(by_hand().played(FedAvgM(beta=0.5, lr=0.5), [(0, 1)] * 2), [[1.75], [3.9375]])


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    f, theta, v, after = at_random(), at_random().start["lora"], np.zeros(7), []
    for r, cohort in enumerate(cohorts):
        mean = np.average([f.descend(k, theta, r) for k in cohort], axis=0, weights=[f.rows[k] for k in cohort])
        v = 0.8 * v + (mean - theta)
        theta = theta + 0.6 * v
        after.append(theta)
    assert_close(f.played(FedAvgM(lr=0.6, beta=0.8), cohorts), after)


def test_defaults():
    assert_documented(FedAvgM, lr=1.0, beta=0.9)


def test_refusals():
    assert "algorithm.beta: expected at least 0 and less than 1, got 1.0" in refusal("fedavgm", beta=1)
    assert "algorithm.lr: expected a number above 0, got 0.0" in refusal("fedavgm", lr=0)
