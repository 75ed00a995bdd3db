"""Updates that began from different states, put together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexray.sim.round import play
from flexray.sim.system.stale import mean
from flexray.sim.vectors import Vectors
from flexray.sim.work import Server
from flexray.state import ServerState, Update
from tests.sim.played import PlayedPool


def v(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_by_hand():
    """Two updates, one of the newest θ = 4 with p = ¼ (u = 6), one of an older 2 with p = ¾ (u = 3), which weighs ½:
    4 + ¼·(6 − 4) + ½·¾·(3 − 2) = 4.875."""
    got = mean([v(0.25 * 6), v(0.75 * 3)], [v(4), v(2)], [0.25, 0.75], [1.0, 0.5])
    assert got.tolist() == [4.875]
    # nobody began with the newest: 4 + ½·1·(3 − 2)
    assert mean([None, v(3)], [v(4), v(2)], [0.0, 1.0], [1.0, 0.5]).tolist() == [4.5]


def test_where_nobody_is_late_the_sum_is_left_as_it_is():
    total = v(0.1, 0.7)
    assert mean([total], [v(5, 5)], [1.0], [1.0]) is total


@given(data=st.data(), versions=st.integers(1, 4))
def test_as_one_by_one(data, versions):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sent = [rng.normal(size=3).astype(np.float32) for _ in range(versions)]
    many = [data.draw(st.integers(0 if o == 0 else 1, 3)) for o in range(versions)]
    rows = [rng.integers(1, 9, n) for n in many]
    if not sum(many):
        return
    every, s = sum(int(r.sum()) for r in rows), [(1 + o) ** -0.5 for o in range(versions)]
    updates = [[rng.normal(size=3).astype(np.float32) for _ in range(n)] for n in many]
    slow = sent[0].astype(float)
    for o in range(versions):
        for n, u in zip(rows[o], updates[o], strict=True):
            slow = slow + s[o] * n / every * (u.astype(float) - sent[o])
    sums = [
        np.sum([np.float32(n / every) * u for n, u in zip(r, us, strict=True)], 0) if len(us) else None
        for r, us in zip(rows, updates, strict=True)
    ]
    assert mean(sums, sent, [r.sum() / every for r in rows], s) == pytest.approx(slow, abs=1e-5)


ASYNC = {"mode": "async", "buffer": 2, "tokens_per_second": 10}


def test_a_whole_course_by_hand(bare_job):
    """A client's update is what it was sent, plus its number and one: in FedAvg with equal rows every buffer of {0, 1} moves θ by
    (1 + 2)/2. Turns of 2, 3 and 7 as in test_buffered: rounds of {0, 1}, {0, 1}, {0, 2 (two rounds late)}, {0, 1 (one late)}."""
    job = bare_job([2, 2, 2], system=ASYNC, rounds=4, train={"steps": 1, "batch": 1})
    job.__dict__["work"] = np.array([20.0, 30.0, 70.0])
    state = job.algorithm.open(job.down.unpack(np.zeros(job.down.numbers, np.float32)))
    server, pool, found = Server((state,)), PlayedPool(job), []
    for round in range(4):
        *_, last = play(job, pool, server, round, {}, vectors=Vectors())
        assert isinstance(last, tuple) and job.buffered
        server, report = last
        found.append(float(job.down.pack_one(server.states[0].sent)[0]))
        assert [*server.past] == ([*job.buffered.needed(round)] if round < 3 else [])
        assert report.course is not None and report.row["staleness_most"] == [0, 0, 2, 1][round]
    then = 3 + (1 + 3 * 3**-0.5) / 2  # (2 + 1)^−½
    assert found == pytest.approx([1.5, 3.0, then, then + (1 + 2 * 2**-0.5) / 2])
    assert [task.lag for own in pool.works[2].training for task in own] == [0, 2]
    assert pool.works[2].rows == (4, 4)


def test_what_was_sent_before_stands_for_a_cluster_each():
    def state(x: float) -> ServerState:
        return ServerState(Update({}, {}), {"x": x})  # type: ignore[dict-item]

    server = Server((state(1),), (), {3: Update({"a": 3}), 1: Update({"a": 1})})  # type: ignore[dict-item]
    seen = server.before((5, 3, 1))
    assert seen.states[0] is server.states[0] and [s.sent.weights for s in seen.states[1:]] == [{"a": 3}, {"a": 1}]
