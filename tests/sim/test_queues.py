"""Who does what next: everything is done once, and bound tasks only at home."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.sim.queues import Queues

TASKS = st.lists(st.integers(0, 6), max_size=5)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), free=st.integers(0, 6), counts=TASKS, bound=st.booleans(), more=st.integers(0, 2))
def test_everything_is_taken_exactly_once(data, free, counts, bound, more):
    """Actors take in any order, also such as have no tasks of their own; what is next is what was seen."""
    own = [[(a, i) for i in range(n)] for a, n in enumerate(counts)]
    anybodys = [("free", i) for i in range(free)]
    queues = Queues(anybodys, own, bound)
    actors, taken = len(counts) + more, []
    at_work = set(range(actors))
    while at_work:
        a = data.draw(st.sampled_from(sorted(at_work)))
        seen = queues.peek(a)
        task = queues.take(a)
        assert task == seen
        if task is None:
            at_work.remove(a)  # there will never be more
            continue
        taken.append(task)
        assert not bound or task[0] in ("free", a)
    assert [t for t in taken if t[0] == "free"] == (anybodys if actors else [])
    for a, mine in enumerate(own):
        assert [t for t in taken if t[0] == a] == mine  # each queue in its order


def test_first_what_is_for_anybody_then_ones_own_then_what_others_have():
    queues = Queues(["x"], [["a1"], ["b1", "b2", "b3"], ["c1", "c2"]])
    assert [queues.take(0) for _ in range(3)] == ["x", "a1", "b1"]
    # now b and c have two each: of the first of them
    assert [queues.take(0) for _ in range(4)] == ["b2", "c1", "b3", "c2"]
    assert queues.take(0) is None and queues.peek(0) is None


def test_who_is_bound_takes_nothing_from_others():
    queues = Queues(["x"], [[], ["b1", "b2"]], bound=True)
    assert queues.take(0) == "x"
    assert queues.peek(0) is None and queues.take(0) is None
    assert queues.take(1) == "b1"


def test_without_any_tasks_there_is_nothing_to_take():
    assert Queues((), ()).take(0) is None
    assert Queues((), (), bound=True).take(3) is None


def test_a_task_that_comes_back_is_the_next_one_or_the_last():
    queues = Queues((), [["a1", "a2"]])
    queues.back(0, "again")
    queues.back(0, "late", last=True)
    queues.back(2, "of one without tasks")
    assert [queues.take(0) for _ in range(4)] == ["again", "a1", "a2", "late"]
    assert queues.take(2) == "of one without tasks" and queues.take(1) is None
