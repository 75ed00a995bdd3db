"""Clips, noise and the adaptive clip, by hand."""

from math import exp, sqrt

import numpy as np
import pytest

from flexray.sections_privacy import Adaptive, Dp
from flexray.sim.privacy.change import generator
from flexray.sim.privacy.clipping import clip_, count_stddev, multiplier, next_clip, noise_


def test_a_long_change_is_shortened_and_keeps_its_direction():
    change = np.array([3, 0, 4], np.float32)
    assert clip_(change, 2.0) == 5.0
    # 3-4-5: times 2/5
    assert change == pytest.approx([1.2, 0, 1.6], rel=2e-6)
    assert np.linalg.norm(change.astype(np.float64)) <= 2.0


def test_a_short_change_stays_to_the_bit():
    change = np.array([0.3, -0.4], np.float32)
    before = change.copy()
    assert clip_(change, 0.5 + 1e-6) == pytest.approx(0.5)
    assert change.tobytes() == before.tobytes()


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_rounding_never_carries_a_change_over_its_clip(size):
    rng = np.random.default_rng(0)
    for _ in range(20):
        change = (rng.standard_normal(999) * size).astype(np.float32)
        clip_(change, 0.7 * size)
        assert np.linalg.norm(change.astype(np.float64)) <= 0.7 * size


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_has_no_norm_to_clip_by(bad):
    with pytest.raises(FloatingPointError, match="update is not finite"):
        clip_(np.array([1, bad], np.float32), 1.0)


def test_noise_has_the_variance_that_was_asked_for():
    values = np.zeros(200_000, np.float32)
    noise_(values, 3.0, generator(1))
    # of n normal numbers the mean has a deviation of 3/√n = 0.0067, the variance one of 9·√(2/n) = 0.028
    assert abs(values.mean()) < 4 * 0.0067
    assert abs(values.var() - 9) < 4 * 0.028


def test_noise_is_a_function_of_its_key():
    a, b, c = (np.zeros(8, np.float32) for _ in range(3))
    for values, key in ((a, (1, 2)), (b, (1, 2)), (c, (1, 3))):
        noise_(values, 1.0, generator(*key))
    assert a.tobytes() == b.tobytes() != c.tobytes()


def test_one_group_with_a_fixed_clip_has_the_noise_multiplier_itself():
    assert multiplier(Dp(noise_multiplier=0.8), 10, 1) == 0.8
    # weights and aux, each with √2 times as much: 1/(2·0.64) + 1/(2·0.64) = 1/0.64
    assert multiplier(Dp(noise_multiplier=0.8), 10, 2) == pytest.approx(0.8 * sqrt(2))


def test_the_count_takes_its_part_of_the_noise():
    dp = Dp(noise_multiplier=1.0, adaptive=Adaptive(quantile=0.5))
    assert count_stddev(dp, 100) == 5.0
    # (1 − 1/(2·5)²)^(−1/2) = 0.99^(−1/2)
    assert multiplier(dp, 100, 1) == pytest.approx(0.99**-0.5)
    # both released together: a Gaussian mechanism of 1/√(1/z_Δ² + 1/(2σ_b)²) = 1
    assert (multiplier(dp, 100, 1) ** -2 + 10.0**-2) ** -0.5 == pytest.approx(1.0)


def test_the_clip_moves_towards_its_quantile():
    dp = Dp(adaptive=Adaptive(quantile=0.5, clip_norm_lr=0.2))
    # b = 0.75: a quarter too many are below it, C ← 2·e^(−0.2·0.25)
    assert next_clip(dp, 2.0, 0.75) == pytest.approx(2 * exp(-0.05))
    assert next_clip(dp, 2.0, 0.5) == 2.0
    assert next_clip(dp, 2.0, 0.0) > 2.0
