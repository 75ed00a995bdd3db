"""Measuring in processes of their own: what comes back, and what becomes of failures."""

import os
import time
from dataclasses import replace

import pytest
import torch

from flexray.sim.planning import apart
from flexray.sim.planning.measure import Ask, Place, Scoring, Turn
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials
from flexray.sim.planning.trial import measure

TURN = Turn(1, 1.0, 2.0, 0.0, 100)


@pytest.fixture(scope="module")
def job(small, tmp_path_factory):
    return prepare(small(), {"CPU": 4.0}, tmp_path_factory.mktemp("private"), Trials("nothing"))[0]


def test_a_turn_is_measured_by_children_of_this_process(job):
    found = apart.here(Ask(job, (1, 2), whole=True), 2)
    assert len(found) == 2
    for one in found:
        first, place, second, scoring = one
        assert (
            isinstance(first, Turn) and isinstance(place, Place) and isinstance(second, Turn) and isinstance(scoring, Scoring)
        )
        assert first.seats == 1 and second.seats == scoring.seats == 2
        assert first.step > 0 and 0 < (first.bytes or 0) < (second.bytes or 0) < 100 << 20
        assert place.private == 4 * job.numbers("private") + 8 * 4  # and which expert it is, in four blocks
        assert scoring.row >= 0 and scoring.fixed >= 0 and 0 < scoring.later <= 1
    assert os.environ.get("TOKENIZERS_PARALLELISM") is None
    assert not list(job.private.glob("*"))  # clients of a measurement leave nothing behind


def test_children_have_threads_of_their_own(job, monkeypatch):
    """Where this process has had several, its children would wait for these for ever."""

    def works(ask):
        torch.set_num_threads(2)
        yield Place(int((torch.ones(512, 512) @ torch.ones(512, 512))[0, 0]))

    monkeypatch.setattr(apart, "answer", works)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.mm(torch.ones(512, 512), torch.ones(512, 512))
    torch.set_num_threads(before)
    assert apart.here(Ask(job, (1,)), 1) == [[Place(512)]]


@pytest.mark.parametrize("name", ["central", "fedmoe", "flex_validated"])
def test_whatever_the_method_does_can_be_measured(small, tmp_path, name):
    x = small(algorithm=name)
    job, _ = prepare(x, {"CPU": 4.0}, tmp_path, Trials("nothing"))
    found = measure(Ask(job, (1,), whole=True), 1, apart.here)
    assert found.turns[1].step > 0 and found.scoring and not found.why


def test_scoring_after_local_steps_can_be_measured_too(small, tmp_path):
    job, _ = prepare(small(evaluation={"when": "after_steps"}), {"CPU": 4.0}, tmp_path, Trials("nothing"))
    assert measure(Ask(job, (1,), whole=True), 1, apart.here).scoring is not None


def test_what_fails_is_said_and_gives_nothing(job, tmp_path):
    found = measure(Ask(replace(job, backbone=tmp_path / "gone"), (1,)), 2, apart.here)
    assert not found.turns
    assert found.why.startswith("ConfigError: storage.cache")


def test_a_process_that_is_killed_gives_what_it_had_found(job, monkeypatch):
    def dies(ask):
        yield TURN
        os.kill(os.getpid(), 9)

    monkeypatch.setattr(apart, "answer", dies)
    assert apart.here(Ask(job, (1, 2)), 1) == [[TURN]]
    monkeypatch.setattr(apart, "answer", lambda ask: os.kill(os.getpid(), 9))
    assert apart.here(Ask(job, (1, 2)), 1) == [["a measuring process was killed or did not answer"]]


def test_a_process_that_hangs_is_not_waited_for(job, monkeypatch):
    monkeypatch.setattr(apart, "PATIENCE", 0.1)
    monkeypatch.setattr(apart, "answer", lambda ask: time.sleep(60))
    began = time.monotonic()
    assert measure(Ask(job, (1,)), 2, apart.here).why == "a measuring process was killed or did not answer"
    assert time.monotonic() - began < 10


def test_where_no_process_can_be_started_it_is_said(job, monkeypatch):
    def no(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(apart, "_children", no)
    assert "Cannot allocate memory" in measure(Ask(job, (1,)), 2, apart.here).why


def test_a_gpu_is_measured_by_a_process_of_its_own(job, monkeypatch):
    """Whose answers come through a pipe; there being no GPU here, it says so."""
    asked = Ask(replace(job, layout=replace(job.layout, device="cuda")), (1,))
    if not torch.cuda.is_available():
        (found,) = apart.here(asked, 3)
        assert len(found) == 1 and "Error" in str(found[0])
