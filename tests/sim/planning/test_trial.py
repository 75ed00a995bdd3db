"""What was measured: put together, interpolated, remembered."""

from dataclasses import replace

import pytest

from flexray.sim.planning.measure import Ask, Place, Turn
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials
from flexray.sim.planning.trial import Measured, measure, remembered


@pytest.fixture(scope="module")
def job(small, tmp_path_factory):
    return prepare(small(), {"CPU": 4.0}, tmp_path_factory.mktemp("private"), Trials("nothing"))[0]


def turn(seats: int, **values) -> Turn:
    return Turn(**({"seats": seats, "step": 1.0 * seats, "fixed": 2.0, "first": 0.0, "bytes": 100 * seats} | values))


def test_times_are_means_and_bytes_the_most():
    found = [[turn(1, step=1.0, bytes=10), Place(7)], [turn(1, step=3.0, bytes=30), Place(7)]]
    assert measure(Ask(None, (1, 2)), 2, lambda *_: found) == Measured({1: turn(1, step=2.0, bytes=30)}, Place(7))  # pyright: ignore[reportArgumentType]


def test_other_seats_are_on_the_line_through_two():
    found = Measured({1: turn(1, step=1.5, bytes=100), 4: turn(4, step=3.0, bytes=250)})
    # half a second more a seat; 50 bytes more a seat
    assert (found.at(2).step, found.at(7).step, found.at(2).fixed) == (2.0, 4.5, 2.0)
    assert (found.work(2), found.work(7)) == (150, 400)
    assert Measured({2: turn(2, bytes=200)}).work(3) == 300  # in proportion
    assert Measured().work(1) is None
    assert Measured({1: turn(1, bytes=None)}).work(1) is None


def test_the_same_work_is_measured_once(job, tmp_path):
    calls = []

    def runner(ask, processes):
        calls.append(ask)
        return [[turn(1), Place(5), turn(2)]]

    found = remembered(Ask(job, (1, 2)), 1, runner, tmp_path)
    assert remembered(Ask(job, (1, 2)), 1, runner, tmp_path) == found == Measured({1: turn(1), 2: turn(2)}, Place(5))
    assert len(calls) == 1
    mild = {**job.spec, "seed": 7, "rounds": 99, "train": {**job.spec["train"], "lr": 1e-2, "steps": 50}}
    remembered(Ask(replace(job, spec=mild), (1, 2)), 1, runner, tmp_path)
    assert len(calls) == 1
    for other in (
        Ask(replace(job, spec={**job.spec, "train": {**job.spec["train"], "batch": 3}}), (1, 2)),
        Ask(replace(job, layout=replace(job.layout, threads=2)), (1, 2)),
        Ask(replace(job, layout=replace(job.layout, device="cuda")), (1, 2)),
        Ask(replace(job, layout=replace(job.layout, actors=2)), (1, 2)),  # side by side they are slower
        Ask(job, (1, 4)),
    ):
        remembered(other, 1, runner, tmp_path)
    assert len(calls) == 6


def test_a_failure_is_not_remembered(job, tmp_path):
    assert remembered(Ask(job, (1,)), 1, lambda *_: [["no"]], tmp_path).why == "no"
    assert remembered(Ask(job, (1,)), 1, lambda *_: [[turn(1)]], tmp_path).turns
