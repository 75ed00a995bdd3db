"""MLflow and Weights & Biases: what they are asked for. Where one is installed it is asked itself, else a stand-in."""

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from flexray import folder
from flexray.tracker import About


class Asked:
    """Remembers every call."""

    def __init__(self, **answers):
        self.calls, self.answers = [], answers

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self.answers.get(name)

        return call


def test_wandb_goes_on_with_the_run_it_knows(tmp_path, monkeypatch):
    run = Asked()
    run.id = "abc"
    wandb = Asked(init=run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    tracker = folder.load("trackers", "wandb", "tracking")()
    assert tracker.open(About(tmp_path, {"seed": 1}, "abc")) == "abc"
    tracker.tell(3, {"train/loss": 1.5})
    tracker.close(True)
    asked = wandb.calls[0][2]
    assert (asked["id"], asked["resume"], asked["dir"], asked["config"]) == ("abc", "allow", str(tmp_path), {"seed": 1})
    assert run.calls == [("log", ({"train/loss": 1.5},), {"step": 3}), ("finish", (), {"exit_code": 0})]


def test_mlflow_begins_or_goes_on(tmp_path, monkeypatch):
    client = Asked(create_experiment="7", create_run=SimpleNamespace(info=SimpleNamespace(run_id="r1")))
    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    mlflow.MlflowClient = lambda: client
    entities.Metric = entities.Param = lambda *values: values
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    tracker = folder.load("trackers", "mlflow", "tracking")()
    assert tracker.open(About(tmp_path, {"train": {"lr": 0.1}}, None)) == "r1"
    assert ("log_batch", ("r1",), {"params": [("train.lr", "0.1")]}) in client.calls
    tracker.tell(2, {"train/loss": 1.5})
    told = client.calls[-1][2]["metrics"][0]
    assert (told[0], told[1], told[3]) == ("train/loss", 1.5, 2)
    tracker.close(False)
    assert client.calls[-1] == ("set_terminated", ("r1", "KILLED"), {})
    assert tracker.open(About(tmp_path, {}, "r1")) == "r1"
    assert client.calls[-1] == ("update_run", ("r1",), {"status": "RUNNING"})


@pytest.mark.slow
def test_a_server_that_is_away_is_not_waited_for_long(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(Exception, match="Max retries exceeded"):
        folder.load("trackers", "mlflow", "tracking")().open(About(tmp_path, {}, None))
    assert time.monotonic() - began < 60


def test_wandb_itself_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = folder.load("trackers", "wandb", "tracking")()
    known = tracker.open(About(tmp_path, {"seed": 1}, None))
    tracker.tell(1, {"train/loss": 1.5})
    tracker.close(True)
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{known}/*.wandb"))
    again = folder.load("trackers", "wandb", "tracking")()
    assert again.open(About(tmp_path, {"seed": 1}, known)) == known
    again.tell(2, {"train/loss": 1.25})
    again.close(True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow is made of
def test_mlflow_itself_in_a_file(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracker = folder.load("trackers", "mlflow", "tracking")()
    known = tracker.open(About(tmp_path, {"seed": 1}, None))
    tracker.tell(1, {"train/loss": 1.5})
    tracker.close(False)
    again = folder.load("trackers", "mlflow", "tracking")()
    again.open(About(tmp_path, {"seed": 1}, known))
    again.tell(2, {"train/loss": 1.25})
    again.close(True)
    client = mlflow.MlflowClient()
    assert [(m.step, m.value) for m in client.get_metric_history(known, "train/loss")] == [(1, 1.5), (2, 1.25)]
    assert client.get_run(known).info.status == "FINISHED"
