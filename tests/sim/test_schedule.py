"""Cohorts, groups and slices are pure functions; the learning rate follows the cosine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexray.sim import schedule
from flexray.sim.fold import Fold
from flexray.sim.vectors import Vectors


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


def test_the_longest_come_first_and_the_same_keep_their_order():
    assert schedule.longest_first((5, 1, 3, 0), [2, 7, 9, 7, 9, 2]) == (1, 3, 5, 0)
    assert schedule.longest_first((), [1.0]) == ()


@given(st.lists(st.integers(), max_size=200))
def test_dealing_keeps_everything_and_each_half_gets_every_second(things):
    dealt = schedule.dealt(things)
    assert sorted(dealt) == sorted(things)
    middle = -(-len(things) // 2)
    if len(things) > 1:
        assert dealt[:middle] == schedule.dealt(things[0::2]) and dealt[middle:] == schedule.dealt(things[1::2])


def test_eight_are_dealt_by_hand():
    """Halves 0 2 4 6 and 1 3 5 7; their halves 0 4, 2 6 and 1 5, 3 7."""
    assert schedule.dealt([*range(8)]) == [0, 4, 2, 6, 1, 5, 3, 7]


@given(st.integers(0, 300), st.integers(1, 40))
def test_regions_cover_all_slices_in_order_and_evenly(slices, actors):
    regions = schedule.regions(slices, actors)
    assert len(regions) == actors
    assert [i for region in regions for i in region] == [*range(slices)]
    assert max(map(len, regions)) - min(map(len, regions)) <= 1


@given(st.integers(1, schedule.SLICES), st.sampled_from([1, 2, 4, 8, 16]))
def test_with_a_power_of_two_each_region_is_a_subtree(slices, actors):
    """So each actor sends one sum; who has nothing to do sends none."""
    for region in schedule.regions(slices, actors):
        fold = Fold(slices, Vectors())
        for i in region:
            fold.add(np.ones(1, np.float32), i, i + 1)
        assert fold.places == ([(region.start, region.stop)] if region else [])


def test_regions_by_hand():
    """Of 13 the first half has 7, of which the second has 3, of which the first has 2."""
    assert [len(r) for r in schedule.regions(13, 8)] == [2, 2, 2, 1, 2, 1, 2, 1]
    assert schedule.regions(7, 3) == [range(3), range(3, 5), range(5, 7)]


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))
def test_chunks_cover_all_within_their_bounds_and_never_grow(count, parts, least, most):
    chunks = schedule.chunks(count, parts, least, most)
    assert [i for a, b in chunks for i in range(a, b)] == [*range(count)]
    sizes = [b - a for a, b in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(least <= n for n in sizes[:-1]) and all(n <= max(least, most) for n in sizes)


def test_chunks_by_hand():
    # of 10 a half: 5, of 5 a half: 2, of 3: 1, of 2: 1, of 1: at least 1
    assert schedule.chunks(10, 2, 1, 99) == [(0, 5), (5, 7), (7, 8), (8, 9), (9, 10)]
    assert schedule.chunks(10, 2, 1, 3) == [(0, 3), (3, 6), (6, 8), (8, 9), (9, 10)]
    assert schedule.chunks(10, 2, 4, 99) == [(0, 5), (5, 9), (9, 10)]
    assert schedule.chunks(0, 2, 1, 9) == []


def test_coins_may_choose_everybody_or_nobody():
    assert schedule.flipped(0, 0, 5, 1.0) == (0, 1, 2, 3, 4)
    assert schedule.flipped(0, 0, 5, 0.0) == ()
    assert {n for r in range(50) for n in schedule.flipped(3, r, 5, 0.5)} == {0, 1, 2, 3, 4}
