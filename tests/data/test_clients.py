"""The order of a client's rows: shuffled epochs, independent streams, a pure function of its arguments."""

import numpy as np
import pytest

from flexray.data.clients import Client, order

ROWS = np.arange(100, 140)


def test_it_is_pure():
    assert np.array_equal(order(ROWS, 1, 2, 3, 50), order(ROWS, 1, 2, 3, 50))


def test_a_longer_round_starts_like_a_shorter_one():
    assert np.array_equal(order(ROWS, 1, 2, 3, 90)[:50], order(ROWS, 1, 2, 3, 50))


@pytest.mark.parametrize("count", [0, 1, 39, 40, 41, 130])
def test_epochs_come_one_after_another(count):
    found = order(ROWS, 0, 0, 0, count)
    assert len(found) == count and found.dtype == ROWS.dtype
    for start in range(0, count, 40):
        epoch = found[start : start + 40]
        assert len(set(epoch)) == len(epoch) and set(epoch) <= set(ROWS)


def test_epochs_differ():
    found = order(ROWS, 0, 0, 0, 80)
    assert not np.array_equal(found[:40], found[40:])


def test_equal_clients_rounds_and_streams_draw_differently():
    draws = [order(ROWS, seed, client, r, 40, stream) for seed, client, r, stream in np.ndindex(3, 3, 3, 3)]
    assert len({tuple(d) for d in draws}) == 81
    # Independent: two draws agree at a place with probability 1/40, here 81·80/2·40 places.
    same = np.mean([np.mean(a == b) for i, a in enumerate(draws) for b in draws[:i]])
    assert abs(same - 1 / 40) < 0.003


def test_a_clients_digest_tells_its_rows_and_splits():
    def digest(*splits):
        return Client("a", *(np.array(rows, int) for rows in splits), dropped=0, labels={}).digest()

    assert digest([1, 2], [3], [4]) == digest([1, 2], [3], [4])
    assert len({digest([1, 2], [3], [4]), digest([1], [2, 3], [4]), digest([1, 2], [], [3, 4]), digest([1, 2], [3], [5])}) == 4
