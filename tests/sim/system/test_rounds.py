"""Synchronous rounds on the clock: closed forms, and a plain loop over clients."""

from math import ceil, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexray.errors import ConfigError
from flexray.sections_system import System
from flexray.sim.schedule import cohort
from flexray.sim.system.fleet import fleet
from flexray.sim.system.rounds import Rounds, ended
from flexray.sim.system.turns import COUNTED, DISCARDED, DROPPED, LATE, LEFT, STATUS, VOID, Pace


def rounds(work, *, wanted=None, down=0.0, up=0.0, seed=0, **settings) -> Rounds:
    s, n = System(**settings), len(work)
    found = fleet(s, [f"c{i}" for i in range(n)], seed)
    assert found is not None
    return Rounds(s, Pace(found, np.array(work, float), np.full(n, down), np.full(n, up), seed), wanted)


def told(course) -> list[str]:
    return [STATUS[s] for s in course.turns.status]


def test_a_turn_lasts_as_long_as_the_formula_says():
    """2 MB down at 8 Mbit/s: 2 s; 300 tokens at 100 a second: 3 s, or 30 s; 1 MB up at 4 Mbit/s: 2 s; 0.5 s of latency each way."""
    made = rounds([300, 100], down=2e6, up=1e6, tokens_per_second=100, download_mbps=8, upload_mbps=4, latency=0.5)
    course = made.round(0)
    assert course.turns.seconds.tolist() == [8.0, 6.0]
    assert (course.began, course.ended, course.seconds) == (0, 8, 8) and course.counted == (0, 1)
    assert (made.round(3).began, made.round(3).ended) == (24, 32)
    slow = rounds([300, 100], down=2e6, up=1e6, tokens_per_second=100, download_mbps=8, upload_mbps=4, latency=0.5, slowdown=10)
    assert slow.round(0).turns.seconds.tolist() == [35.0, 15.0]


def test_the_deadline_ends_a_round_and_who_is_late_does_not_count():
    course = rounds([100, 300, 500], tokens_per_second=100, deadline=3).round(0)
    assert told(course) == ["counted", "counted", "late"] and course.ended == 3
    assert rounds([100, 200], tokens_per_second=100, deadline=3).round(0).ended == 2  # all have answered before


def test_of_more_than_are_wanted_the_first_count():
    course = rounds([100, 300, 200, 400], wanted=2, over_selection=2, tokens_per_second=100).round(0)
    assert told(course) == ["counted", "discarded", "counted", "discarded"] and course.ended == 2
    assert len(rounds([1] * 20, wanted=10, over_selection=1.3, latency=1).round(0).turns) == 13
    assert len(rounds([1] * 12, wanted=10, over_selection=1.3, latency=1).round(0).turns) == 12
    assert (
        len(rounds([1] * 12, wanted=10, over_selection=1.1, latency=1).round(0).turns) == 11
    )  # 10 · 1.1 is more than 11 in floats


def test_alike_clients_count_by_number():
    course = rounds([1] * 4, wanted=2, over_selection=2, latency=1).round(0)
    assert course.counted == (0, 1) and course.ended == 2


def test_where_too_few_answer_the_round_is_void_and_time_passes():
    course = rounds([100, 500], tokens_per_second=100, deadline=3, min_updates=2).round(0)
    assert told(course) == ["void", "late"] and course.counted == () and course.ended == 3
    course = rounds([100, 500], tokens_per_second=100, dropout=1.0).round(0)
    assert told(course) == ["dropped", "dropped"] and course.ended == 5


def test_the_cohort_is_that_of_a_run_without_a_clock():
    made = rounds([5] * 30, wanted=7, tokens_per_second=1)
    assert [made.round(r).counted for r in range(20)] == [cohort(0, r, 30, 7) for r in range(20)]


def test_dropouts_are_as_frequent_as_they_should_be_and_known_to_the_seed():
    found = [len(rounds([1] * 200, latency=1, dropout=0.3, seed=s).round(r).counted) for s in (0, 1) for r in range(20)]
    assert np.mean(found) == pytest.approx(140, abs=4) and len({*found}) > 5
    assert found[:20] == [len(rounds([1] * 200, latency=1, dropout=0.3).round(r).counted) for r in range(20)]


def test_any_round_may_be_asked_for_first():
    settings = {"wanted": 3, "tokens_per_second": {"lognormal": [10, 1]}, "dropout": 0.2, "over_selection": 1.5}
    made = rounds([5] * 12, **settings)
    ends = [made.round(r).ended for r in range(40)]
    assert rounds([5] * 12, **settings).round(39).ended == ends[39] and made.round(2).ended == ends[2]
    assert len(made._kept) <= 9


def test_only_who_is_there_is_asked_and_who_goes_does_not_count(tmp_path):
    """A turn takes 2 s. a is there from 0 to 10; b from 0 to 1, so it leaves; c comes at 3. Rounds: 0 to 2, 2 to 4, then with c."""
    (tmp_path / "t.csv").write_text("client,start,end\nc0,0,10\nc1,0,1\nc2,3,20\n")
    made = rounds([200] * 3, tokens_per_second=100, availability=tmp_path / "t.csv")
    assert told(made.round(0)) == ["counted", "left"] and made.round(0).ended == 2
    assert made.round(1).counted == (0,) and made.round(2).counted == (0, 2) and made.round(2).began == 4
    assert [made.round(r).counted for r in (3, 4, 5)] == [(0, 2), (0, 2), (2,)]
    with pytest.raises(
        ConfigError, match=r"system.availability: expected 1 clients .* to be there for round 10, got fewer for ever"
    ):
        made.round(11)


def test_a_round_begins_when_enough_are_there(tmp_path):
    (tmp_path / "t.csv").write_text("client,start,end\nc0,5,10\nc1,7,8\n")
    made = rounds([100] * 2, tokens_per_second=100, availability=tmp_path / "t.csv", availability_period=20, min_updates=2)
    assert [(made.round(r).began, made.round(r).ended) for r in (0, 1)] == [(7, 8), (27, 28)]


TIMES = st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.sampled_from([2, 5, inf])), min_size=1, max_size=8)


@given(clients=TIMES, wanted=st.integers(1, 8), deadline=st.sampled_from([3, 6, inf]))
def test_what_becomes_of_clients_as_a_plain_loop_has_it(clients, wanted, deadline):
    wanted = min(wanted, len(clients))
    seconds, silent, stays = (np.array(column) for column in zip(*clients, strict=True))
    status, took = ended(seconds.astype(float), silent, stays.astype(float), wanted, deadline)
    answers = []
    for k, (t, quiet, until) in enumerate(clients):
        if quiet:
            assert status[k] == DROPPED
        elif t > until and until < deadline:
            assert status[k] == LEFT
        elif t > deadline:
            assert status[k] == LATE
        else:
            answers.append((t, k))
    first = sorted(answers)[:wanted]
    assert {k for _, k in first} == {*np.flatnonzero(status == COUNTED).tolist()}
    assert {k for _, k in sorted(answers)[wanted:]} == {*np.flatnonzero(status == DISCARDED).tolist()}
    if len(first) == wanted:
        assert took == first[-1][0]
    elif deadline < inf:
        assert took == deadline
    else:
        assert took == (first[-1][0] if first else max(min(t, until) for t, _, until in clients))


@given(
    n=st.integers(1, 30), wanted=st.integers(1, 30), factor=st.floats(1, 3), least=st.integers(1, 5), seed=st.integers(0, 9),
    dropout=st.sampled_from([0.0, 0.4]), deadline=st.sampled_from([None, 2.0]),
)  # fmt: skip
def test_laws(n, wanted, factor, least, seed, dropout, deadline):
    wanted = min(wanted, n)
    made = rounds(
        range(1, n + 1), wanted=wanted, over_selection=factor, min_updates=least, seed=seed, dropout=dropout, deadline=deadline,
        tokens_per_second=10, slowdown={"bernoulli": (0.3, 5.0)},
    )  # fmt: skip
    if least > n:
        return
    for r in range(3):
        course = made.round(r)
        assert len({*course.turns.client.tolist()}) == len(course.turns) == min(n, ceil(wanted * factor - 1e-9))
        assert len(course.counted) <= wanted and (len(course.counted) >= least or not course.counted)
        assert course.began == (made.round(r - 1).ended if r else 0) <= course.ended
        counted = course.turns.seconds[course.turns.status == COUNTED]
        assert deadline is None or (counted <= deadline).all()
        assert (counted <= course.seconds).all() or VOID in course.turns.status
