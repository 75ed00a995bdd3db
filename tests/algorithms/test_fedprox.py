"""FedProx by hand, and against a plain loop."""

import numpy as np
import pytest

from flexray.algorithms.fedprox import FedProx
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal


def test_two_rounds_by_hand():
    # mu = 1, two steps of rate ½. Client 0 from 0: gradient −4 → 2; (2 − 4) + 1·(2 − 0) = 0 → 2. Client 1: twice that, 4.
    # θ = ¼·2 + ¾·4 = 3.5. Then client 0: −0.5 → 3.75; −0.25 + 0.25 = 0. Client 1: −4.5 → 5.75; −2.25 + 2.25 = 0.
    # θ = ¼·3.75 + ¾·5.75 = 5.25.
    assert_close(by_hand(steps=2).played(FedProx(mu=1), [(0, 1), (0, 1)]), [[3.5], [5.25]])


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    f, mu = at_random(), 0.7
    theta, after = f.start["lora"], []
    for r, cohort in enumerate(cohorts):
        ends = []
        for k in cohort:
            w = theta.copy()
            for _ in range(f.steps):
                w = w - f.rates[r] * (f.curvature["lora"][k] * (w - f.targets["lora"][k]) + mu * (w - theta))
            ends.append(w)
        theta = np.average(ends, axis=0, weights=[f.rows[k] for k in cohort])
        after.append(theta)
    assert_close(f.played(FedProx(mu=mu), cohorts), after)


def test_defaults():
    assert_documented(FedProx, mu=0.01)


def test_a_negative_mu_is_refused():
    assert "algorithm.mu: expected a number >= 0, got -1" in refusal("fedprox", mu=-1)
