"""Lending, against a slow way to say the same."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.data.held_out import at_most, lend


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 9))
def test_lent_rows_are_others_each_once_and_as_many_as_there_are(sizes, overlap, seed):
    rows = np.random.default_rng(seed).permutation(1000)[: sum(sizes)]
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    rngs = [np.random.default_rng([seed, c]) for c in range(len(sizes))]
    for own, lent in zip(pieces, lend(pieces, overlap, rngs), strict=True):
        extra = set(lent) - set(own)
        assert set(own) <= set(lent) and len(set(lent)) == len(lent) and extra <= set(rows)
        assert len(extra) == min(len(rows) - len(own), round(overlap * len(own)))
        assert list(lent) == sorted(lent)


def test_every_row_of_the_others_is_lent_equally_often():
    """Client 1 of three draws 2 of the 6 rows of the others: each a third of the time, 1,000 of 3,000 (sd 26)."""
    pieces = [np.arange(0, 4), np.arange(4, 8), np.arange(8, 10)]
    times = np.zeros(10, int)
    for seed in range(3000):
        times[lend(pieces, 0.5, [np.random.default_rng([seed, c]) for c in range(3)])[1]] += 1
    assert times[4:8].tolist() == [3000] * 4
    assert np.abs(np.delete(times, range(4, 8)) - 1000).max() < 130


def test_limits_choose_by_chance_and_keep_the_order():
    rows = np.arange(10, 30)
    assert at_most(rows, None, np.random.default_rng(0)) is rows and at_most(rows, 20, np.random.default_rng(0)) is rows
    chosen = at_most(rows, 5, np.random.default_rng(0))
    assert len(chosen) == 5 and np.all(np.diff(chosen) > 0) and chosen.max() > 15
