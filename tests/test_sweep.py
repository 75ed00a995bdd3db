"""`flexray sweep`: what it runs, how it goes on after what stopped it, what it leaves behind, and its exit codes."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import flexray
from flexray import api
from flexray import sweep as runner
from flexray.cli import app
from flexray.errors import ConfigError, RunError
from flexray.sweeping.events import Begun, Ended, Rounds
from flexray.sweeping.records import Record, Records
from flexray.sweeping.spec import Spec, read

SMALL = {
    "rounds": 2,
    "clients": 3,
    "seats": 1,
    "algorithm": "fedavg",
    "data": {"max_train_rows": 12, "max_valid_rows": 4, "max_test_rows": 4},
    "train": {"steps": 2, "batch": 2, "optimizer": "sgd", "clip": None, "schedule": "constant"},
    "evaluation": {"every": 1},
}


def spec(cache, also: dict | None = None, **sweep) -> Spec:
    return read({**SMALL, "storage": {"cache": str(cache)}, **(also or {}), "sweep": sweep})


@pytest.fixture(scope="module")
def swept(cache, ray_here, tmp_path_factory):
    """A sweep of which one setting fails, interrupted when its first trial is over, gone on with through the command line.

    Gives its folder, what was told before the interruption, what was there then, and the command's result."""
    out, told = tmp_path_factory.mktemp("sweep") / "out", []

    def watch(event):
        told.append(event)
        if isinstance(event, Ended):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.sweep(spec(cache, over={"train.lr": [0.01, 1e30], "seed": [0, 1]}), out, watch=watch)
    before = {p.relative_to(out).as_posix(): p.stat().st_mtime_ns for p in out.glob("runs/*/summary.json")}
    return out, told, before, CliRunner().invoke(app, ["sweep", "--resume", str(out)])


def test_ctrl_c_leaves_what_is_finished_and_no_trial_behind(swept):
    import ray

    out, told, before, _ = swept
    (begun,) = (e for e in told if isinstance(e, Begun))
    assert (begun.trials, begun.over, begun.slots) == (4, 0, 4)
    assert sum(isinstance(e, Ended) for e in told) == 1
    assert all((out / name).stat().st_mtime_ns == when for name, when in before.items())  # not run again
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}


def test_one_failed_trial_does_not_end_the_rest_and_the_exit_code_says_so(swept):
    out, _, _, result = swept
    assert result.exit_code == 1, result.output
    made = flexray.load_sweep(out)
    assert [r.status for r in made.records] == ["finished", "finished", "failed", "failed"]
    assert list(made.failures) == ["002", "003"]
    assert all("FloatingPointError" in why for why in made.failures.values())
    assert "2 of 4 trials failed. Go on with:" in result.output
    assert "002 failed: round" in result.output


def test_its_table_is_the_mean_over_seeds(swept):
    made = flexray.load_sweep(swept[0])
    losses = [api.load_run(swept[0] / "runs" / f"00{n}").summary["mean"]["personal"]["loss"] for n in (0, 1)]
    (setting,) = made.settings
    assert (setting.point, setting.trials) == ({"train.lr": 0.01}, (0, 1))
    assert (setting.mean, setting.sd) == (pytest.approx(fmean(losses)), pytest.approx(stdev(losses)))


def test_a_row_per_trial_and_round(swept):
    rows = pq.read_table(swept[0] / "rounds.parquet").to_pylist()
    assert [(r["trial"], r["round"]) for r in rows if r["status"] == "finished"] == [(n, r) for n in (0, 1) for r in (0, 1, 2)]
    assert {(r["trial"], r["train.lr"], r["seed"]) for r in rows} <= {(0, 0.01, 0), (1, 0.01, 1), (2, 1e30, 0), (3, 1e30, 1)}
    alone = api.load_run(swept[0] / "runs" / "001")
    assert [r["loss"] for r in rows if r["trial"] == 1] == [None, *(r["loss"] for r in alone.rounds())]
    assert rows[5]["personal.loss"] == pytest.approx(alone.summary["mean"]["personal"]["loss"])
    assert flexray.load_sweep(swept[0]).trials("pandas")["seed"].tolist() == [0, 1, 0, 1]


def test_a_trial_is_what_its_run_is_alone(swept, cache, tmp_path):
    x = spec(cache, over={"train.lr": [0.01], "seed": [1]}).experiment({"train.lr": 0.01, "seed": 1})
    inline = x.model_copy(update={"resources": x.resources.model_copy(update={"backend": "inline", "threads": 1})})
    alone = api.simulate(inline, tmp_path / "run").summary
    assert alone["clients"] == api.load_run(swept[0] / "runs" / "001").summary["clients"]


def test_what_it_leaves_behind(swept):
    out = swept[0]
    assert {f.name for f in out.iterdir()} == {"sweep.yaml", "trials", "runs", "rounds.parquet", "summary.json", "best.yaml"}
    assert json.loads((out / "summary.json").read_text())["trials"] == {"finished": 2, "stopped": 0, "failed": 2, "left": 0}
    best = flexray.Experiment(**yaml.safe_load((out / "best.yaml").read_text()))
    assert (best.train.lr, best.evaluation.split) == (0.01, "test")
    assert not Path("~/ray_results").expanduser().exists()


def test_partial_shows_what_is_finished(swept):
    result = CliRunner().invoke(app, ["sweep", "--resume", str(swept[0]), "--partial", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["settings"][0]["trials"] == [0, 1]


def test_another_sweep_is_refused_in_the_same_folder(swept, cache):
    with pytest.raises(
        ConfigError, match=r"sweep\.over\.train\.lr\.grid: expected \[0\.01, 1e\+30\] as when the sweep was begun"
    ):
        runner.sweep(spec(cache, over={"train.lr": [0.02], "seed": [0, 1]}), swept[0], resume=True)
    with pytest.raises(ConfigError, match="--out: expected a new or empty folder"):
        runner.sweep(spec(cache, over={"train.lr": [0.01]}), swept[0])


def test_more_trials_than_slots_each_with_its_own_actors(cache, ray_here, tmp_path):
    told, also = [], {"clients": 2, "resources": {"cpu_per_client": 1.5}}
    made = runner.sweep(spec(cache, also, over={"rounds": [1, 2]}, cpus=3), tmp_path / "out", watch=told.append)
    assert [e.slots for e in told if isinstance(e, Begun)] == [1]  # 2 actors × 1.5 of 4 CPUs
    assert [(r.status, r.actors, r.cpus) for r in made.records] == [("finished", 2, 3.0)] * 2
    assert {api.load_run(tmp_path / "out" / "runs" / r.name).summary["actors"] for r in made.records} == {2}
    assert {(e.number, e.rounds) for e in told if isinstance(e, Rounds)} == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}


def test_what_could_never_be_placed_is_refused_before_anything_is_written(cache, tmp_path):
    with pytest.raises(ConfigError, match=r"sweep\.cpus: expected at most \d+ \(the CPUs of the largest node\), got 640"):
        runner.sweep(spec(cache, over={"rounds": [1]}, cpus=640), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_input_exits_with_two():
    result = CliRunner().invoke(app, ["sweep", "--set", "sweep.over.train.lrr=[1.0]"])
    assert result.exit_code == 2
    assert "sweep.over.train.lrr: expected a known key" in result.output


@pytest.mark.parametrize(("name", "verdict"), [("asha", "STOP"), ("median", "STOP"), ("none", "CONTINUE")])
def test_schedulers_know_the_trials_of_before(cache, tmp_path, name, verdict, monkeypatch):
    """Three trials with losses 1, 2, 3 after round 1, so that one with 4 is neither in the best half nor better than the median."""
    s, records = spec(cache, over={"train.lr": [0.1]}, stop={"name": name, "factor": 2}), Records(tmp_path)
    for number in range(3):
        records.save(Record(number, {"train.lr": 0.1}, {}, status="stopped"))
    monkeypatch.setattr(Records, "scores", lambda self, number, view, metric: [(1, number + 1.0)])
    scheduler, new = runner._scheduler(s, records), runner._Before(9)
    scheduler.on_trial_add(None, new)
    assert scheduler.on_trial_result(None, new, {"round": 1, "value": 4.0}) == verdict


def test_what_it_would_run_is_known_before_anything_starts(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trials, told = runner.planned(spec(cache, over={"train.lr": [0.1, 0.2], "clients": [2, 3], "seed": [0, 1]}))
    assert [(r.number, r.point["train.lr"], r.point["clients"], r.point["seed"]) for r in trials[:3]] == [
        (0, 0.1, 2, 0),
        (1, 0.1, 2, 1),
        (2, 0.1, 3, 0),
    ]
    assert (len(trials), told.trials, told.over) == (8, 8, 0)
    assert all((r.actors, r.cpus) == (1, 1.0) for r in trials) or told.slots > 4  # a larger machine gives a trial more
    assert list(tmp_path.iterdir()) == []


def test_what_would_go_on_is_what_is_left(swept):
    made = flexray.load_sweep(swept[0])
    trials, told = runner.planned(made.spec, swept[0])
    assert [r.number for r in trials] == [2, 3]  # those that failed
    assert told.over == 2
    result = CliRunner().invoke(app, ["sweep", "--resume", str(swept[0]), "--dry-run"])
    assert result.exit_code == 0
    first, head, *rows = result.output.splitlines()
    assert first == "4 trials, 2 side by side, 2 over already"
    assert head.split() == ["trial", "lr", "seed", "rounds", "actors", "CPUs"]
    assert [row.split()[:4] for row in rows] == [["002", "1e+30", "0", "2"], ["003", "1e+30", "1", "2"]]
    result = CliRunner().invoke(app, ["sweep", "--resume", str(swept[0]), "--dry-run", "--json"])
    assert [(t["number"], t["cpus"]) for t in json.loads(result.stdout)] == [(2, trials[0].cpus), (3, trials[1].cpus)]


def test_no_finished_trial_says_how_to_go_on(cache, ray_here, tmp_path):
    s = spec(cache, over={"train.lr": [1e30]})
    with pytest.raises(RunError, match=rf"(?s)is finished.000: .*Go on with:.  flexray sweep --resume {tmp_path / 'out'}"):
        runner.sweep(s, tmp_path / "out")
