"""Sums at the end of a round: everybody's reaches the driver once, whoever is ready when."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.sim.merging import Merge, Merging


@settings(max_examples=300, deadline=None)
@given(data=st.data(), nodes=st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_everybodys_sum_reaches_the_driver_exactly_once(data, nodes):
    """Actors finish in any order; one that is given a sum is ready again some time later, others meanwhile. From each node but one goes one
    sum to another node."""
    actors, crossing = len(nodes), 0
    merging, merges = Merging(nodes, among=True), 0
    sums, driver = {a: {a} for a in range(actors)}, []
    busy = list(range(actors))
    while busy:
        ready = busy.pop(data.draw(st.integers(0, len(busy) - 1)))
        merge = merging.ready(ready)
        if merge is None:
            continue
        assert merge.giver == ready
        given_ = sums.pop(merge.giver)  # a KeyError: it has given before
        if merge.taker is None:
            driver.append(given_)
        else:
            merges += 1
            crossing += nodes[merge.giver] != nodes[merge.taker]
            assert merge.taker != merge.giver and merge.taker not in busy
            sums[merge.taker] |= given_
            busy.append(merge.taker)
    assert driver == [set(range(actors))] and not sums and merges == actors - 1 and crossing == len({*nodes}) - 1


@settings(max_examples=50, deadline=None)
@given(data=st.data(), actors=st.integers(1, 9))
def test_small_sums_go_to_the_driver_at_once(data, actors):
    merging = Merging(["a"] * actors, among=False)
    for a in data.draw(st.permutations(range(actors))):
        assert merging.ready(a) == Merge(a, None)


@pytest.mark.parametrize("among", [False, True])
def test_one_actor_gives_to_the_driver(among):
    assert Merging(["a"] * 1, among).ready(0) == Merge(0, None)


def test_who_is_ready_waits_for_the_next_one_alone():
    """Of three, 2 and 0 make one while 1 is still at work; and their sum waits for 1's."""
    merging = Merging(["a"] * 3, among=True)
    assert merging.ready(2) is None
    assert merging.ready(0) == Merge(0, 2)
    assert merging.ready(2) is None
    assert merging.ready(1) == Merge(1, 2)
    assert merging.ready(2) == Merge(2, None)


def test_who_has_something_to_do_again_is_waited_for():
    """0 has given to 1, which dies: both work again, and both give."""
    merging = Merging(["a"] * 2, among=True)
    assert merging.ready(1) is None
    assert merging.ready(0) == Merge(0, 1)
    merging.again(0)
    assert merging.ready(0) is None
    assert merging.ready(1) == Merge(1, 0)
    assert merging.ready(0) == Merge(0, None)


def test_nobody_waits_for_a_new_one_that_has_nothing():
    """1 is new and has nothing: 0, which waits, is the last, and gives to the driver."""
    merging = Merging(["a"] * 2, among=True)
    assert merging.ready(0) is None
    assert merging.nothing(1) == Merge(0, None)
    merging = Merging(["a"] * 2, among=True)
    assert merging.nothing(1) is None
    assert merging.ready(0) == Merge(0, None)
