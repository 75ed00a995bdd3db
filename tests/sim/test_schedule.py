"""Cohorts, groups and slices are pure functions; the learning rate follows the cosine."""

import numpy as np
import pytest

from flexray.sim import schedule


def test_everybody_takes_part_unless_a_size_is_given():
    assert schedule.cohort(0, 3, 4, None) == (0, 1, 2, 3)


@pytest.mark.parametrize(("size", "expected"), [(3, 3), (0.25, 5), (0.01, 1), (100, 20)])
def test_a_cohort_has_the_asked_size_and_ascends(size, expected):
    drawn = schedule.cohort(0, 0, 20, size)
    assert len(drawn) == len(set(drawn)) == expected
    assert list(drawn) == sorted(drawn)


def test_cohorts_differ_by_round_and_seed_and_repeat_exactly():
    draws = {schedule.cohort(seed, r, 100, 10) for seed in (0, 1) for r in range(5)}
    assert len(draws) == 10
    assert schedule.cohort(1, 4, 100, 10) == schedule.cohort(1, 4, 100, 10)


def test_every_client_is_drawn_about_equally_often():
    counts = np.bincount([c for r in range(500) for c in schedule.cohort(7, r, 10, 3)], minlength=10)
    assert counts.sum() == 1500
    assert np.all(abs(counts - 150) < 50)  # 5 standard deviations: sqrt(500 · 0.3 · 0.7) = 10.2


def test_groups_keep_order_and_leave_the_rest_last():
    assert schedule.groups((2, 3, 5, 7, 9), 2) == ((2, 3), (5, 7), (9,))


@pytest.mark.parametrize("n", [1, 5, 64, 65, 1000])
def test_slices_cover_the_groups_in_order(n):
    groups = schedule.groups(range(n), 1)
    slices = schedule.slices(groups)
    assert [g for s in slices for g in s] == list(groups)
    assert len(slices) == min(n, schedule.SLICES)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_the_cosine_starts_and_ends_where_it_should():
    # three rounds from 1 to 0.2: the middle is half way, 0.2 + 0.8 · (1 + cos(π/2))/2 = 0.6
    assert [schedule.learning_rate(1.0, 0.2, r, 3) for r in range(3)] == pytest.approx([1.0, 0.6, 0.2])
    assert schedule.learning_rate(1.0, 0.2, 0, 1) == 1.0
