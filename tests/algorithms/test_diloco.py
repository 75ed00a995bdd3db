"""DiLoCo by hand, and against torch's own Nesterov SGD as the outer optimizer."""

import numpy as np
import pytest
import torch

from flexray.algorithms.diloco import DiLoCo
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of


def test_two_rounds_by_hand():
    # The clients' mean is half the way to 7. lr = momentum = ½:
    # g = −3.5, m = −3.5; θ = −½·(−3.5 − ½·3.5) = 2.625.
    # g = −2.1875, m = −½·3.5 − 2.1875 = −3.9375; θ = 2.625 + ½·(2.1875 + ½·3.9375) = 4.703125.
    f = by_hand()
    assert_close(f.played(DiLoCo(lr=0.5, momentum=0.5), [(0, 1)] * 2), [[2.625], [4.703125]])
    assert vector_of(f.state.kept, "lora").tolist() == [-3.9375]


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_torchs_nesterov(cohorts):
    f, after = at_random(), []
    theta = torch.tensor(f.start["lora"])
    outer = torch.optim.SGD([theta], lr=0.4, momentum=0.8, nesterov=True)
    for r, cohort in enumerate(cohorts):
        start = theta.numpy().copy()
        ends = [f.descend(k, start, r) for k in cohort]
        theta.grad = torch.tensor(start - np.average(ends, axis=0, weights=[f.rows[k] for k in cohort]))
        outer.step()
        after.append(theta.numpy().copy())
    assert_close(f.played(DiLoCo(lr=0.4, momentum=0.8), cohorts), after)


def test_defaults():
    assert_documented(DiLoCo, lr=0.7, momentum=0.9)


def test_refusals():
    assert "algorithm.momentum: expected at least 0 and less than 1, got -0.1" in refusal("diloco", momentum=-0.1)
    assert "algorithm.lr: expected a number above 0, got -1.0" in refusal("diloco", lr=-1)
