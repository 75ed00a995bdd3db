"""When clients are there: intervals by hand, and against a look at every second."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexray.sim.system.availability import Availability, joined, wrapped

INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda i: tuple(sorted(i))), max_size=5)


def test_by_hand():
    there = Availability.of([[(5, 8), (0, 2)], [(0, 100)], []], [10, inf, inf])
    assert there.on(1).tolist() == [True, True, False]
    assert there.on(2).tolist() == [False, True, False]  # an end is no longer in it
    assert there.on(26).tolist() == [True, True, False]  # 26 is 6 of the third period
    assert there.until(26).tolist() == [28, 100, 26]
    assert there.back(3).tolist() == [5, 3, inf]
    assert there.back(19).tolist() == [20, 19, inf]  # the next period begins
    assert there.back(200).tolist() == [200, inf, inf]


def test_who_is_there_over_the_end_of_a_period_stays():
    """From 8 to 12 of every 10 seconds: 8 to 10, and 0 to 2."""
    there = Availability.of([[(8, 12)]], [10])
    assert there.on(9)[0] and there.on(11)[0] and not there.on(12)[0] and not there.on(7)[0]
    assert there.until(9)[0] == 12 and there.until(11)[0] == 12 and there.until(29)[0] == 32


@pytest.mark.parametrize("own", [[(3, 13)], [(0, 10)], [(0, 25)], [(0, 6), (6, 10)], [(5, 15), (2, 6)]])
def test_who_is_there_all_the_time_stays_for_ever(own):
    there = Availability.of([own], [10])
    assert all(there.on(t)[0] and there.until(t)[0] == inf for t in range(25) if own != [(5, 15), (2, 6)])
    assert there.on(3)[0]


def test_what_overlaps_is_one_and_what_is_empty_is_none():
    assert joined([(4, 6), (1, 2), (2, 3), (5, 5), (5, 9)]) == [(1, 3), (4, 9)]
    assert wrapped([(18, 23)], 10) == [(8, 10), (0.0, 3)]


@given(own=st.lists(INTERVALS, min_size=1, max_size=4), period=st.sampled_from([12, 31, inf]), now=st.integers(0, 70))
def test_as_a_look_at_every_second_tells(own, period, now):
    there = Availability.of(own, [period] * len(own))

    def on(k: int, t: int) -> bool:
        """Slow and obvious: some interval, some periods ago, holds the second t."""
        turns = [0] if period == inf else range(-40 * period, 80 * period, period)
        return any(a + p <= t < b + p for a, b in own[k] for p in turns)

    for k in range(len(own)):
        assert there.on(now)[k] == on(k, now)
        until = next((t for t in range(now, now + 130) if not on(k, t)), inf)
        back = next((t for t in range(now, now + 130) if on(k, t)), inf)
        assert there.until(now)[k] == until
        assert there.back(now)[k] == back


def test_nobody_at_all():
    there = Availability.of([[], []], [inf, 10])
    assert not there.on(3).any() and np.isinf(there.back(3)).all()
