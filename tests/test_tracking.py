"""Trackers are told every number once, whatever stops the run, and a run outlives them."""

import json
import struct

import pytest

from flexray import api, tracking
from flexray.errors import ConfigError
from flexray.sim.events import Evaluated
from flexray.sim.run_folder import RunFolder

BROKEN = """
from flexray.tracker import Tracker

class Broken(Tracker):
    needs = "json"

    def open(self, run):
        return None

    def tell(self, step, numbers):
        raise OSError("nobody there")

    def close(self, finished):
        raise AssertionError("it is told nothing more")
"""


def scalars(folder):
    """(name, step) to value of all event files: each record is a length, a check, the event, a check."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    assert len({(tag, step) for tag, step, _ in found}) == len(found), "nothing is told twice"
    return {(tag, step): value for tag, step, value in found}


def test_numbers_are_those_of_the_tables_and_nothing_is_doubled_on_resume(small, tmp_path):
    x = small(rounds=3, evaluation={"every": 1})

    def stop(event):
        if isinstance(event, Evaluated) and event.round == 2:  # told already, and round 2 is not committed
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.simulate(x, tmp_path / "run", watch=stop)
    before = scalars(tmp_path / "run")
    assert ("test_loss/personal", 2) in before and ("train/loss", 2) in before and ("train/loss", 3) not in before
    run = api.resume(tmp_path / "run")
    told = scalars(run.path)
    for row in run.rounds():
        assert told["train/loss", row["round"] + 1] == pytest.approx(row["loss"])
        assert told["bytes/up", row["round"] + 1] == row["bytes_up"]
    personal = [r["value"] for r in run.clients() if (r["round"], r["view"], r["metric"]) == (3, "personal", "loss")]
    assert told["test_loss/personal", 3] == pytest.approx(sum(personal) / 3)
    drift = [r["drift"] for r in RunFolder(run.path).table("inside") if r["round"] == 3]
    assert told["inside/drift", 3] == pytest.approx(sum(drift) / len(drift))
    assert sorted(step for tag, step in told if tag == "train/loss") == [1, 2, 3]
    assert sorted(step for tag, step in told if tag == "test_loss/personal") == [0, 1, 2, 3]


def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(small, tmp_path, caplog):
    mine = tmp_path / "mine.py"
    mine.write_text(BROKEN)
    run = api.simulate(small(tracking=[str(mine), "tensorboard"]), tmp_path / "run")
    assert [r.getMessage() for r in caplog.records if r.name == "flexray"] == [
        f"tracking: {mine} failed and is told nothing more: OSError: nobody there. The run goes on."
    ]
    assert ("train/loss", 2) in scalars(run.path)
    assert json.loads((run.path / tracking.FILE).read_text())[str(mine)] == {"known": None, "train": -1, "scores": -1}


def test_none_may_be_asked_for(small, tmp_path):
    run = api.simulate(small(tracking=[], rounds=1), tmp_path / "run")
    assert not {"tensorboard", "tracking.json"} & {f.name for f in run.path.iterdir()}


def test_wrong_names_and_missing_packages_are_wrong_input(small, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"tracking: expected a known name .*, got 'tensorbord'; did you mean 'tensorboard'"):
        small(tracking=["tensorbord"])
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match="tracking: expected the package wandb to be installed, got 'wandb'; pip install wandb"
    ):
        api.simulate(small(tracking=["wandb"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_name_is_kept_for_the_next_start(tmp_path):
    asked = []

    class Known(tracking.Tracker):
        needs = "json"

        def open(self, run):
            asked.append(run.known)
            return "id-1"

        def tell(self, step, numbers):
            pass

        def close(self, finished):
            asked.append(finished)

    for first in (0, 1):
        with tracking.Tracking([Known()], tmp_path, {}) as track:
            track(tracking.Started(first, 0.0))
    assert asked == [None, False, "id-1", False]
    assert [told["known"] for told in json.loads((tmp_path / tracking.FILE).read_text()).values()] == ["id-1"]
