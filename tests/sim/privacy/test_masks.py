"""Masks that cancel, clients that are lost, and what one masked vector shows."""

import numpy as np
import pytest

from flexray.errors import RunError
from flexray.sections_privacy import SecureAggregation
from flexray.sim.fold import Fold
from flexray.sim.privacy.masks import Masks, quantised
from flexray.sim.vectors import Vectors


def masks(cohort=range(6), round=3, **told) -> Masks:
    return Masks(SecureAggregation(protocol="secagg", **told), 7, round, tuple(cohort))


def values(clients: int, numbers: int = 50) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((clients, numbers))


def summed(m: Masks, x: np.ndarray) -> np.ndarray:
    total = np.zeros(x.shape[1], np.uint64)
    for client in m.there:
        total += m.masked(x[client], client)
    return total


@pytest.mark.parametrize(
    "told", [{}, {"num_shares": 2}, {"num_shares": 4}, {"dropout": 0.34}, {"num_shares": 4, "dropout": 0.2}], ids=str
)
def test_the_sum_is_that_of_the_plain_values_to_half_a_step_each(told):
    m, x = masks(**told), values(6)
    found, plain = m.opened(summed(m, x)), x[list(m.there)].sum(0)
    # six roundings of at most 2^−41
    assert np.abs(found - plain).max() <= 6 * 2.0**-41
    assert len(m.lost) == int(6 * told.get("dropout", 0))


def test_the_sum_is_exact_for_whole_steps():
    m = masks(fraction_bits=8)
    x = np.round(values(6) * 256) / 256
    assert (m.opened(summed(m, x)) == x.sum(0)).all()


def test_any_order_and_any_tree_give_the_same_bits():
    m, x = masks(), values(6)
    fold = Fold(6, Vectors())
    for client in (4, 1, 5, 0, 3, 2):
        fold.add(m.masked(x[client], client), client, client + 1)
    assert fold.result.dtype == np.uint64
    assert fold.result.tobytes() == summed(m, x).tobytes()


def test_whoever_lacks_the_seeds_sees_uniform_bits():
    """Of one client's vector, and of the sum of some: every bit is set about half the time, and nothing tells of the values."""
    m, x = masks(), np.full((6, 4096), 0.5)
    alone, some = m.masked(x[0], 0), m.masked(x[1], 1) + m.masked(x[2], 2)
    for seen in (alone, some):
        bits = np.unpackbits(seen.view(np.uint8)).reshape(-1, 64).mean(0)
        # 4096 coins: a deviation of 1/128
        assert np.abs(bits - 0.5).max() < 5 / 128
        counts = np.bincount((seen >> np.uint64(56)).astype(int), minlength=256)
        # χ² with 255 degrees of freedom: mean 255, deviation √510 = 22.6
        assert ((counts - 16) ** 2 / 16).sum() < 255 + 5 * 22.6


def test_everybodys_sum_still_has_their_own_masks():
    """Pairs have cancelled: an actor that has all clients does not see the sum either."""
    m, x = masks(), values(6)
    far = np.abs(summed(m, x).view(np.int64).astype(np.float64) / 2.0**40 - x.sum(0))
    assert np.median(far) > 1e3


def test_masks_change_with_round_client_and_seed():
    x = np.zeros(8)
    every = [m.masked(x, c).tobytes() for m in (masks(), masks(round=4)) for c in (0, 1)]
    assert len(set(every)) == 4


def test_neighbours_are_those_on_the_ring():
    m = masks(range(10), num_shares=4)
    near = {c: m.neighbours(c) for c in range(10)}
    assert all(len(set(n)) == 4 and c not in n for c, n in near.items())
    assert all(c in near[other] for c, n in near.items() for other in n)
    assert set(masks().neighbours(2)) == {0, 1, 3, 4, 5}


def test_who_never_sent_anything_is_taken_for_lost():
    x, before = values(6), masks(dropout=0.17)
    after = Masks(before.told, 7, 3, before.cohort, frozenset({min(before.there)}))
    assert len(after.lost) == 2 and before.lost < after.lost
    total = np.zeros(50, np.uint64)
    for client in after.there:
        total += before.masked(x[client], client)
    assert after.opened(total) == pytest.approx(x[list(after.there)].sum(0), abs=1e-11)


def test_too_few_who_hold_shares_end_the_round():
    m = masks(range(4), dropout=0.5, reconstruction_threshold=0.9)
    with pytest.raises(RunError, match=r"round 3: of the 3 who hold shares of client 0's keys 2 are left, and 3 are needed"):
        m.opened(np.zeros(3, np.uint64))


def test_a_sum_of_one_hides_nothing():
    with pytest.raises(RunError, match="hides nothing among 1"):
        masks([5]).opened(np.zeros(3, np.uint64))


@pytest.mark.parametrize("bad", [2.0**22, np.nan, -np.inf])
def test_what_could_wrap_around_is_an_error(bad):
    # 40 bits behind the point leave 2^23 before it, and half of that for each of two
    with pytest.raises(FloatingPointError, match="too large"):
        quantised(np.array([0.0, bad]), 40, 2)


def test_quantised_is_to_the_nearest_step_and_signed():
    assert quantised(np.array([1.25, -0.25, 0.126]), 2, 3).view(np.int64).tolist() == [5, -1, 1]


def test_bytes_of_the_protocol():
    m = masks(dropout=0.34)
    stays, goes = m.there[0], min(m.lost)
    # five neighbours: own keys 64, shares 5·100, and a share of each, 5·32; down keys and shares 5·164, names 5·4
    assert m.cost(stays) == (64 + 500 + 160, 820 + 20)
    assert m.cost(goes) == (64 + 500, 820)
