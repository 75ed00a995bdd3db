"""Buffered asynchronous rounds: by hand, and what holds of every course of events."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.errors import ConfigError
from flexray.sections_system import System
from flexray.sim.schedule import cohort
from flexray.sim.system.buffered import Buffered, weight
from flexray.sim.system.fleet import fleet
from flexray.sim.system.turns import COUNTED, DROPPED, LATE, LEFT, STALE, STATUS, Pace


def buffered(work, buffer, concurrency, seed=0, **more) -> Buffered:
    s, n = System.model_validate({"mode": "async", "buffer": buffer, "tokens_per_second": 1} | more), len(work)
    found = fleet(s, [f"c{i}" for i in range(n)], seed)
    assert found is not None
    return Buffered(s, Pace(found, np.array(work, float), np.zeros(n), np.zeros(n), seed), buffer, concurrency)


def counted(made: Buffered, rounds: int = 6) -> list[dict[int, int]]:
    return [made.round(r).staleness for r in range(rounds)]


def test_by_hand():
    """Everybody at work, two make a round; turns of 2, 3 and 7 seconds. At 2 client 0 waits, at 3 client 1 fills the buffer; both begin
    anew with version 1: at 5 and 6. 0 again at 8 and 1 at 9; but at 7 client 2, from the very beginning, waits: with 0 at 8 it is round
    2, in which it is two rounds late. At 9 client 1, of version 2, waits for client 0, of version 3, at 10."""
    made = buffered([2, 3, 7], 2, 3)
    assert [made.round(r).ended for r in range(4)] == [3, 6, 8, 10]
    assert [made.round(r).seconds for r in range(4)] == [3, 3, 2, 2]
    assert counted(made, 4) == [{0: 0, 1: 0}, {0: 0, 1: 0}, {0: 0, 2: 2}, {0: 0, 1: 1}]
    assert [made.versions(r) for r in range(4)] == [(0,), (1,), (2, 0), (3, 2)]
    assert made.parted(2) == ((0,), (2,)) and made.parted(3) == ((0,), (1,))
    assert [made.needed(r) for r in range(4)] == [(0,), (0,), (2,), (3,)]
    assert made.round(2).turns.started.tolist() == [6, 0] and made.round(2).turns.seconds.tolist() == [2, 7]


def test_at_equal_speeds_with_all_places_in_the_buffer_it_is_synchronous():
    made = buffered([5] * 20, 6, 6)
    assert [made.round(r).counted for r in range(8)] == [cohort(0, r, 20, 6) for r in range(8)]
    assert [made.round(r).ended for r in range(8)] == [5.0 * (r + 1) for r in range(8)]
    assert all(late == 0 for own in counted(made) for late in own.values())


def test_at_one_instant_clients_come_by_number_and_may_fill_several_buffers():
    made = buffered([5] * 4, 2, 4)
    assert counted(made, 4) == [{0: 0, 1: 0}, {2: 1, 3: 1}, {0: 0, 1: 0}, {2: 1, 3: 1}]
    assert [made.round(r).seconds for r in range(4)] == [5, 0, 5, 0]


def test_too_late_is_thrown_away():
    """As by hand, but at most one round late: client 2 is not in round 2, begins anew with version 2 and comes at 14."""
    made = buffered([2, 3, 7], 2, 3, max_staleness=1)
    turns = made.round(2).turns
    assert [(int(c), STATUS[s]) for c, s in zip(turns.client, turns.status, strict=True)] == [
        (0, "counted"),
        (1, "counted"),
        (2, "stale"),
    ]
    assert turns.staleness.tolist() == [0, 0, 2] and made.round(2).ended == 9
    assert all(late <= 1 for own in counted(made) for late in own.values())


def test_weights():
    s = System(mode="async", buffer=1, tokens_per_second=1)
    assert [weight(s, tau) for tau in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert weight(System(mode="async", staleness="constant"), 7) == 1.0
    assert weight(System(mode="async", staleness_exponent=1.0), 4) == 0.2


def test_a_deadline_frees_the_place():
    made = buffered([2, 9], 1, 1, deadline=3)
    assert {c for own in counted(made, 20) for c in own} == {0}
    turns = [made.round(r).turns for r in range(20)]
    late = sum((t.status == LATE).sum() for t in turns)
    assert late > 0 and made.round(19).ended == 20 * 2 + late * 3


def test_who_falls_silent_is_waited_for_and_followed():
    made = buffered([2] * 5, 2, 2, dropout=0.3)
    turns = [made.round(r).turns for r in range(50)]
    dropped = sum((t.status == DROPPED).sum() for t in turns)
    assert dropped / (dropped + 100) == pytest.approx(0.3, abs=0.1)


def test_who_goes_is_lost_and_who_comes_begins(tmp_path):
    """A turn takes 2. c0 is there from 0 to 5: back at 2 and 4, then it goes at 5. c1 comes at 10: back at 12."""
    (tmp_path / "t.csv").write_text("client,start,end\nc0,0,5\nc1,10,13\n")
    made = buffered([2, 2], 1, 2, availability=tmp_path / "t.csv")
    assert [(made.round(r).ended, made.round(r).counted) for r in range(3)] == [(2, (0,)), (4, (0,)), (12, (1,))]
    assert (made.round(2).turns.status == LEFT).sum() == 1
    with pytest.raises(ConfigError, match=r"expected 1 updates \(system.buffer\) for round 3, got too few for ever"):
        buffered([2, 2], 1, 2, availability=tmp_path / "t.csv").round(3)


@pytest.mark.parametrize("more", [{"dropout": 1.0}, {"deadline": 0.5}])
def test_a_buffer_that_never_fills_is_found_out(more):
    with pytest.raises(ConfigError, match="for round 0, got too few for ever"):
        buffered([2] * 5, 2, 2, **more).round(0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), seed=st.integers(0, 5))
def test_laws(data, n, seed):
    work = data.draw(st.lists(st.integers(1, 20), min_size=n, max_size=n))
    buffer, concurrency = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    more = data.draw(
        st.sampled_from([{}, {"dropout": 0.3}, {"max_staleness": 1}, {"deadline": 15}, {"slowdown": {"uniform": (1, 3)}}])
    )
    if more == {"deadline": 15}:
        work = [min(w, 15) for w in work]
    made = buffered(work, buffer, concurrency, seed=seed, **more)
    courses = [made.round(r) for r in range(10)]
    now = 0.0
    for course in courses:
        assert len(course.counted) == buffer == len({*course.counted})
        assert course.began == now <= course.ended
        now = course.ended
        t = course.turns
        came = (t.started + t.seconds)[t.status == COUNTED]
        assert (came <= course.ended + 1e-9).all() and came.max() == pytest.approx(course.ended)
        assert (came >= course.began - 1e-9).all()
        begun = course.number - t.staleness[t.status == COUNTED]  # versions
        starts = np.array([0.0, *(c.ended for c in courses)])
        assert (begun >= 0).all() and (t.started[t.status == COUNTED] >= starts[begun] - 1e-9).all()
        assert (t.started[t.status == COUNTED] <= starts[begun + 1] + 1e-9).all()
        if "max_staleness" in more:
            assert (t.staleness[t.status == COUNTED] <= 1).all() and (t.staleness[t.status == STALE] > 1).all()
        parted = made.parted(course.number)
        assert sorted(c for own in parted for c in own) == [*course.counted] and len(parted) == len(
            made.versions(course.number)
        )
        assert all(parted[1:])
    _nobody_is_at_work_twice(courses)
    _no_more_than_there_are_places(courses, concurrency)
    kept: set[int] = set()
    for r in range(10):  # what is kept is what is needed
        assert {*made.versions(r)[1:]} <= kept
        assert {*made.needed(r)} <= {*kept, r}
        kept = {*made.needed(r)}


def _spans(courses) -> list[tuple[float, float, int]]:
    every = [c.turns for c in courses]
    return [
        (float(a), float(a + s), int(c)) for t in every for a, s, c in zip(t.started, t.seconds, t.client, strict=True)
    ]  # fmt: skip


def _nobody_is_at_work_twice(courses) -> None:
    last: dict[int, float] = {}
    for start, end, client in sorted(_spans(courses)):
        assert start >= last.get(client, 0.0) - 1e-9
        last[client] = end


def _no_more_than_there_are_places(courses, concurrency: int) -> None:
    spans = _spans(courses)
    for start, _, _ in spans:
        assert sum(a <= start + 1e-9 and start < b - 1e-9 for a, b, _ in spans) <= concurrency


def test_times_are_numbers():
    assert all(np.isfinite(c.ended) and c.ended < inf for c in (buffered([1, 2], 1, 2).round(r) for r in range(6)))
