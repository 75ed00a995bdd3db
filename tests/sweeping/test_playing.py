"""A trial in its own process: what it tells, and how it fails."""

import pytest

from flexray import api
from flexray.sweeping.playing import Play
from flexray.sweeping.records import Record, Records


@pytest.fixture
def play(small, tmp_path):
    """Plays an experiment as a trial; gives what it told."""

    def made(**changes) -> list[dict]:
        records = Records(tmp_path)
        x = small(algorithm={"name": "fedavg"}, evaluation={"every": 1}, seats=1, **changes)
        records.save(Record(0, {}, {**x.spec(), "resources": {"backend": "ray"}}))
        told: list[dict] = []
        Play(records, tmp_path, "personal", "loss", lambda error, folder: None)(0, told.append)
        return told

    return made


def test_it_tells_every_round_and_its_end(play, tmp_path):
    first, scored, last = play()
    value = api.load_run(tmp_path / "runs" / "000").summary["mean"]["personal"]["loss"]
    assert (first, list(scored), scored["round"]) == ({"round": 1}, ["round", "value"], 1)
    assert last == {"round": 2, "value": value, "failure": None}


def test_a_model_that_diverges_is_a_failure_in_words(play):
    """Rates at which weights overflow: the loss on valid rows is no number."""
    told = play(train={"lr": 1e20, "optimizer": "sgd", "clip": None, "schedule": "constant", "steps": 1})
    assert "diverged" in told[-1]["failure"] or "FloatingPointError" in told[-1]["failure"]
    assert "value" not in told[-1]


def test_scores_that_are_no_numbers_are_told_when_it_goes_on(play, monkeypatch):
    monkeypatch.setattr(Records, "scores", lambda *_: [(1, 2.0), (2, float("inf"))])
    assert play() == [{"round": 1, "value": 2.0}, {"failure": "after round 2 the loss is inf: the model has diverged"}]
