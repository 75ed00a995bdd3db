"""Sums along a tree: the same bits in whatever order and from whomever leaves and sums of them come."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.sim.fold import Fold, Gathering
from flexray.sim.vectors import Vectors

NUMBERS = 3


def tree(leaves: list[np.ndarray]) -> np.ndarray:
    """The plain recursive sum: of both halves, the first not the smaller."""
    if len(leaves) == 1:
        return leaves[0]
    middle = -(-len(leaves) // 2)
    return tree(leaves[:middle]) + tree(leaves[middle:])


def made(count: int) -> list[np.ndarray]:
    """Numbers of very different sizes, so that another order of addition has other bits."""
    rng = np.random.default_rng(count)
    return [(rng.standard_normal(NUMBERS) * 10.0 ** rng.integers(-6, 7, NUMBERS)).astype(np.float32) for _ in range(count)]


def subtrees(a: int, b: int) -> Iterator[tuple[int, int]]:
    yield a, b
    if b - a > 1:
        middle = (a + b + 1) // 2
        yield from subtrees(a, middle)
        yield from subtrees(middle, b)


def test_by_hand_another_order_has_other_bits():
    """(1e8 + 1) + (−1e8 + 3): in float32, whose neighbours of 1e8 are 8 apart, 1e8 − 1e8 = 0; in order it would be 3."""
    leaves = [np.array([x], np.float32) for x in (1e8, 1.0, -1e8, 3.0)]
    fold = Fold(4, Vectors())
    for i in (2, 0, 3, 1):
        fold.add(leaves[i].copy(), i, i + 1)
    assert fold.result.tolist() == [0.0]


def test_of_five_leaves_the_first_half_has_three():
    """((x0 + x1) + x2) + (x3 + x4)"""
    x = made(5)
    fold = Fold(5, Vectors())
    for i in (4, 2, 1, 3, 0):
        fold.add(x[i].copy(), i, i + 1)
    assert fold.result.tobytes() == (((x[0] + x[1]) + x[2]) + (x[3] + x[4])).tobytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data(), count=st.integers(1, 40))
def test_any_order_and_any_split_give_the_bits_of_the_recursive_sum(data, count):
    """The tree is cut anywhere into subtrees, which come as their sums, some in memory that must not be written to."""
    leaves = made(count)

    def cut(a: int, b: int) -> list[tuple[int, int]]:
        if b - a == 1 or data.draw(st.integers(0, 3)) == 0:
            return [(a, b)]
        return cut(a, (a + b + 1) // 2) + cut((a + b + 1) // 2, b)

    fold, given_ = Fold(count, Vectors()), []
    for a, b in data.draw(st.permutations(cut(0, count))):
        vector = tree(leaves[a:b]).copy()
        vector.flags.writeable = data.draw(st.booleans())
        given_.append((vector, vector.copy(), vector.flags.writeable))
        fold.add(vector, a, b)
    assert fold.result.tobytes() == tree(leaves).tobytes()
    assert fold.places == [(0, count)]
    assert all(vector.tobytes() == before.tobytes() for vector, before, writeable in given_ if not writeable)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), count=st.integers(1, 30), actors=st.integers(1, 6))
def test_any_actors_add_up_their_leaves_and_each_others_sums(data, count, actors):
    """Leaves are dealt at random; each adds up what it can, then they merge in a random order, as from an object store."""
    leaves, vectors = made(count), [Vectors() for _ in range(actors)]
    folds = [Fold(count, own) for own in vectors]
    for i in data.draw(st.permutations(range(count))):
        a = data.draw(st.integers(0, actors - 1))
        own = vectors[a].take(NUMBERS)
        own[:] = leaves[i]
        folds[a].add(own, i, i + 1)
        del own
    while len(folds) > 1:
        giver, taker = folds.pop(data.draw(st.integers(0, len(folds) - 1))), data.draw(st.integers(0, len(folds) - 1))
        for place in giver.places:
            crossed = giver.take(*place).copy()
            crossed.flags.writeable = False
            folds[taker].add(crossed, *place)
        assert giver.places == []
    assert folds[0].result.tobytes() == tree(leaves).tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 128])
def test_what_may_be_written_into_takes_no_new_memory(count):
    vectors, leaves = Vectors(), made(count)
    fold = Fold(count, vectors)
    for i, leaf in enumerate(leaves):
        fold.add(leaf.copy(), i, i + 1)
    assert len(vectors._made) == 0 and fold.result.tobytes() == tree(leaves).tobytes()


def test_neighbours_that_are_no_subtree_stay_apart():
    """Of four leaves the second and the third have no sum of their own."""
    fold = Fold(4, Vectors())
    for i in (1, 2):
        fold.add(np.ones(1, np.float32), i, i + 1)
    assert sorted(fold.places) == [(1, 2), (2, 3)]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_leaf_that_never_came_is_an_error(count):
    for missing in range(count):
        fold = Fold(count, Vectors())
        for i in {*range(count)} - {missing}:
            fold.add(np.ones(1, np.float32), i, i + 1)
        with pytest.raises(AssertionError, match=f"of {count} leaves came"):
            _ = fold.result


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_what_is_no_subtree_is_an_error(count):
    for a in range(count):
        for b in range(a + 1, count + 1):
            if (a, b) not in subtrees(0, count):
                with pytest.raises(AssertionError, match="no subtree"):
                    Fold(count, Vectors()).add(np.ones(1, np.float32), a, b)


def test_single_updates_come_out_in_client_order():
    gathering = Gathering((7, 2, 5))
    gathering.add([np.full(1, 5.0), np.full(1, 7.0)], [5, 7])
    with pytest.raises(AssertionError, match="2 of 3 updates came"):
        _ = gathering.result
    gathering.add([np.full(1, 2.0)], [2])
    assert [v.item() for v in gathering.result] == [2, 5, 7]


def test_an_update_of_somebody_else_is_an_error():
    gathering = Gathering((2,))
    gathering.add([np.zeros(1), np.zeros(1)], [2, 3])
    with pytest.raises(AssertionError, match="2 of 1 updates came"):
        _ = gathering.result
