"""`flexray compare`: what it runs, how it goes on, what it leaves behind, and its exit codes."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from flexray import api
from flexray import compare as runner
from flexray.cli import app
from flexray.comparison.events import Begun, Done, Rounds
from flexray.comparison.spec import Spec, read
from flexray.errors import ConfigError, RunError

SMALL = {
    "rounds": 2,
    "clients": 3,
    "data": {"max_train_rows": 12, "max_valid_rows": 4, "max_test_rows": 4},
    "train": {"steps": 2, "batch": 2},
    "resources": {"backend": "inline"},
}
BAD = {"algorithm": "fedavg", "train": {"lr": 1e30, "final_lr": 1e30, "optimizer": "sgd", "clip": None, "steps": 3}}


@pytest.fixture
def spec(cache):
    """`spec(methods=["fedavg"])`, small, in one process, seeds 0 and 1; other keys by `also`."""

    def make(also: dict | None = None, **compare) -> Spec:
        given = {"methods": ["fedavg", "local"], "seeds": [0, 1], "resamples": 100, **compare}
        return read({**SMALL, "storage": {"cache": str(cache)}, **(also or {}), "compare": given})

    return make


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """A comparison from start to end: its folder, its value, and what it told."""
    out, events = tmp_path_factory.mktemp("compare") / "out", []
    s = read({**SMALL, "storage": {"cache": str(cache)}, "compare": {"methods": ["fedavg", "local"], "seeds": [0, 1]}})
    return out, runner.compare(s, out, watch=events.append), events


def stopping(at: str):
    """Raises as Ctrl-C does, when a run has played its first round."""

    def watch(event):
        if isinstance(event, Rounds) and event.cell.name == at:
            raise KeyboardInterrupt

    return watch


def test_it_runs_every_method_with_every_seed_and_tells_so(whole):
    out, c, events = whole
    names = ["fedavg-s0", "local-s0", "fedavg-s1", "local-s1"]
    assert sorted(f.name for f in (out / "runs").iterdir()) == sorted(names)
    assert isinstance(events[0], Begun)
    assert [cell.name for cell in events[0].left] == names
    assert [e.cell.name for e in events if isinstance(e, Done)] == names
    assert [e.rounds for e in events if isinstance(e, Rounds)] == [1, 2] * 4
    assert (c.finished, c.runs, c.failures) == (4, 4, {})


def test_its_means_are_those_of_the_runs(whole):
    out, c, _ = whole
    for method in c.methods:
        for seed, loss in method.scores["loss"].by_seed.items():
            summary = api.load_run(out / "runs" / f"{method.label}-s{seed}").summary
            assert loss == pytest.approx(summary["mean"]["personal"]["loss"], rel=1e-12)


def test_what_it_leaves_behind(whole):
    out, c, _ = whole
    assert {f.name for f in out.iterdir()} == {"compare.yaml", "runs", "table.md", "table.csv", "table.tex", "comparison.json"}
    assert json.loads((out / "comparison.json").read_text())["reference"] == "fedavg"
    lines = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [(line["method"], line["number"]) for line in lines] == [(m, n) for m in ("fedavg", "local") for n in c.numbers]


def test_a_run_is_what_it_is_alone(whole, tmp_path):
    out, _, _ = whole
    alone = api.simulate(read(yaml.safe_load((out / "compare.yaml").read_text())).cells[0].experiment, tmp_path / "run")
    assert alone.summary["clients"] == api.load_run(out / "runs" / "fedavg-s0").summary["clients"]


def test_finished_runs_are_not_run_again_and_half_finished_ones_go_on_to_the_same(whole, spec, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        runner.compare(spec(resamples=2000), tmp_path / "out", watch=stopping("local-s0"))
    summary = tmp_path / "out" / "runs" / "fedavg-s0" / "summary.json"
    before, events = summary.stat().st_mtime_ns, []
    c = runner.compare(spec(resamples=2000), tmp_path / "out", resume=True, watch=events.append)
    assert summary.stat().st_mtime_ns == before
    assert (events[0].finished, [cell.name for cell in events[0].left]) == (1, ["local-s0", "fedavg-s1", "local-s1"])
    assert [e.rounds for e in events if isinstance(e, Rounds) and e.cell.name == "local-s0"] == [2]
    timeless = [[m.scores for m in made.methods] for made in (c, whole[1])]
    assert timeless[0] == timeless[1]


def test_a_run_that_was_stopped_before_its_first_file(spec, tmp_path):
    (tmp_path / "out" / "runs" / "local-s0").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "local-s0" / ".config.yaml.tmp").touch()
    (tmp_path / "out" / "compare.yaml").write_text(yaml.safe_dump(spec(methods=["local"], seeds=[0]).dump()))
    assert runner.compare(spec(methods=["local"], seeds=[0]), tmp_path / "out", resume=True).finished == 1


def test_a_run_that_fails_keeps_no_other_from_going_on(spec, tmp_path):
    c = runner.compare(spec(methods={"bad": BAD, "fedavg": "fedavg"}, seeds=[0]), tmp_path / "out")
    assert [m.label for m in c.methods] == ["fedavg"]
    assert list(c.failures) == ["bad-s0"]
    assert re.match(r"round 0, client client-\d: FloatingPointError", c.failures["bad-s0"])
    assert "\n" not in c.failures["bad-s0"]
    assert "bad-s0 failed: round 0" in (tmp_path / "out" / "table.md").read_text()


def test_nothing_but_failures(spec, tmp_path):
    with pytest.raises(RunError, match=r"no run of .* is finished\nbad-s0: round 0, client client-\d"):
        runner.compare(spec(methods={"bad": BAD}, seeds=[0]), tmp_path / "out")


def test_an_unexpected_failure_leaves_its_traceback_with_the_run(spec, tmp_path, monkeypatch):
    def simulate(x, path, **_):
        path.mkdir(parents=True)
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(api, "simulate", simulate)
    with pytest.raises(RunError, match=r"fedavg-s0: ZeroDivisionError: by zero \(the traceback is in .*error.log\)"):
        runner.compare(spec(methods=["fedavg"], seeds=[0]), tmp_path / "out")


# going on with something else


@pytest.fixture
def begun(whole, tmp_path):
    """A copy of the finished comparison's files, without what is private."""
    for file in whole[0].rglob("*"):
        if file.is_file() and "private" not in file.parts:
            copy = tmp_path / "begun" / file.relative_to(whole[0])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return tmp_path / "begun"


def refuses(spec: Spec, out: Path) -> list[str]:
    before = (out / "compare.yaml").read_text()
    with pytest.raises(ConfigError) as e:
        runner.compare(spec, out, resume=True)
    assert (out / "compare.yaml").read_text() == before
    return list(e.value.problems)


def test_what_would_change_a_run_is_refused_with_the_reason(begun, spec):
    assert refuses(spec(also={"rounds": 3}), begun) == [
        "rounds: expected 2 as when fedavg-s0 was begun, got 3; keep it, or use another --out"
    ]
    assert refuses(spec(methods={"fedavg": "fedavg", "local": {"algorithm": "local", "train.lr": 0.1}}), begun) == [
        "train.lr: expected 0.003 as when local-s0 was begun, got 0.1; keep it, or use another --out"
    ]
    assert refuses(spec(methods={"fedavg": "fedprox", "local": "local"}), begun)[0].startswith(
        "algorithm.name: expected 'fedavg' as when fedavg-s0 was begun, got 'fedprox'"
    )
    assert refuses(spec(methods=["fedavg"]), begun) == [
        "--resume: expected local-s0 among the runs as before, got it no more; use another --out"
    ]


def test_a_run_that_does_not_fit_what_the_folder_says(begun, spec):
    """As after compare.yaml was changed by hand."""
    kept = yaml.safe_load((begun / "compare.yaml").read_text())
    (begun / "compare.yaml").write_text(yaml.safe_dump({**kept, "rounds": 3}))
    assert refuses(spec(also={"rounds": 3}), begun)[0].startswith("rounds: expected 2 as when fedavg-s0 was begun, got 3")


def test_the_table_may_change_and_seeds_and_methods_may_be_added(begun, spec):
    c = runner.compare(spec(reference="local", over=["rows"], alpha=0.1, resamples=300), begun, resume=True)
    assert (c.reference, c.over, c.alpha, c.resamples, c.finished) == ("local", ("rows",), 0.1, 300, 4)
    events = []
    c = runner.compare(spec(seeds=[0, 1, 5]), begun, resume=True, watch=events.append)
    assert [cell.name for cell in events[0].left] == ["fedavg-s5", "local-s5"]
    assert c["local"].seeds == (0, 1, 5)


# refused before anything is written


def test_folders(spec, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(
        ConfigError, match=r"--out: expected a new or empty folder, got '.*full'; name another, or go on with --resume"
    ):
        runner.compare(spec(), tmp_path / "full")
    with pytest.raises(ConfigError, match=r"--resume: expected the folder of a comparison"):
        runner.compare(spec(), tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_what_only_the_data_can_tell_is_told_before_the_first_run(spec, tmp_path):
    with pytest.raises(ConfigError, match=r"data.partition.column: expected a column of the data"):
        runner.compare(spec(also={"data": {"partition": {"name": "column", "column": "nope"}}}), tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"compare.methods.few: expected the same test rows at the same clients .* with seed 0"
    ):
        runner.compare(spec(methods={"all": "fedavg", "few": {"data.max_test_rows": 2}}), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--jobs: expected 1 with `resources.backend: inline`, got 2; drop one of the two"):
        runner.compare(spec(), tmp_path / "out", jobs=2)
    assert not (tmp_path / "out").exists()


# side by side


def test_side_by_side_gives_the_same_bits(ray_here, spec, tmp_path):
    """Each run in a process of its own, one of which fails; and gone on with one after another."""
    methods = {"flex": {"algorithm": {"name": "flex", "graft": {"calibration_rows": 4}}}, "bad": BAD}
    on_ray, events = {"resources": {"backend": "ray"}}, []
    c = runner.compare(spec(on_ray, methods=methods, seeds=[0]), tmp_path / "ray", jobs=2, watch=events.append)
    assert events[0].jobs == 2
    assert re.match(r"round 0, client client-\d: FloatingPointError", c.failures["bad-s0"])
    plain = runner.compare(spec(methods={"flex": methods["flex"]}, seeds=[0]), tmp_path / "inline")
    assert c["flex"].scores == plain["flex"].scores
    here, there = (load_file(tmp_path / way / "runs" / "flex-s0" / "server.safetensors") for way in ("inline", "ray"))
    assert all((t == there[name]).all() for name, t in here.items())
    with pytest.raises(ConfigError, match=r"--jobs: expected 1 to 4 \(runs that there is room for at once\), got 5"):
        runner.compare(spec(on_ray, methods=methods, seeds=[0]), tmp_path / "ray", resume=True, jobs=5)


@pytest.mark.parametrize(("left", "cohort", "jobs"), [(9, 3, 4), (2, 3, 1), (3, 3, 3), (2, 8, 1), (4, 8, 4), (1, 1, 1)])
def test_how_many_runs_go_side_by_side(small, left, cohort, jobs):
    """As many as fill 4 CPUs, unless the clients of one run would fill more of them."""
    plan = api.make_plan(small(clients=cohort, seats=1, resources={"backend": "ray"}))
    assert runner._jobs(plan, {"CPU": 4.0}, left, None) == jobs
    assert runner._jobs(plan, {"CPU": 4.0}, left, 2) == 2


# the command


@pytest.fixture
def flexray(spec, tmp_path, monkeypatch):
    """Calls `flexray compare` in an empty folder that has compare.yaml's values as c.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments, **compare):
        Path("c.yaml").write_text(yaml.safe_dump(spec(**compare).dump()))
        return CliRunner().invoke(app, ["compare", *map(str, arguments)])

    return call


def test_the_command_tells_its_runs_and_its_tables(flexray):
    result = flexray("c.yaml", "--out", "out", methods=["fedavg"], seeds=[3])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "1 method × 1 seed: 1 to run, one after another"
    assert lines[1].startswith("fedavg-s3  loss ")
    assert lines[-1] == "tables out/table.md .csv .tex"
    assert max(map(len, lines)) <= 80


def test_json_is_the_only_thing_on_stdout(flexray):
    result = flexray("c.yaml", "--out", "out", "--json", methods=["fedavg"], seeds=[3])
    assert json.loads(result.stdout) == json.loads(Path("out/comparison.json").read_text())
    assert "fedavg-s3" in result.stderr


def test_a_failed_run_is_told_and_the_exit_code_says_so(flexray):
    result = flexray("c.yaml", "--out", "out", methods={"bad": BAD, "fedavg": "fedavg"}, seeds=[0])
    assert result.exit_code == 1
    assert re.search(r"bad-s0     failed: round 0, client client-\d", result.stdout)
    assert result.stderr.splitlines() == ["1 of 2 runs failed. Go on with:", "  flexray compare --resume out"]


def test_what_is_finished_so_far(flexray, begun):
    (begun / "runs" / "local-s1" / "summary.json").unlink()
    result = flexray("--resume", begun, "--partial")
    assert result.exit_code == 0
    assert "Partial: 3 of 4 runs are finished." in result.stdout
    assert not (begun / "runs" / "local-s1" / "summary.json").exists()
    assert flexray("--partial").exit_code == flexray("--resume", begun, "--partial", "--jobs", "2").exit_code == 2


def test_ctrl_c_says_how_to_go_on(flexray, monkeypatch):
    monkeypatch.setattr(runner, "_play", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    result = flexray("c.yaml", "--out", "out")
    assert result.exit_code == 130
    assert result.stderr.splitlines() == ["Stopped. Go on with:", "  flexray compare --resume out"]


@pytest.mark.parametrize("arguments", [["--help"], ["--set", "compare.methods=[flxe]"]])
def test_help_and_wrong_specs_answer_without_torch(arguments):
    code = (
        f"import sys\nsys.argv = ['flexray', 'compare', *{arguments!r}]\nfrom flexray.cli import app\ntry:\n    app()\n"
        "except SystemExit:\n    pass\nprint('\\n' + ' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "transformers", "pyarrow", "datasets"} & {*done.stdout.splitlines()[-1].split()}


def test_wrong_input(flexray):
    result = flexray("c.yaml", "--set", "compare.methods.fedavg.train.lrr=3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[1].startswith("  compare.methods.fedavg.train.lrr: expected a known key")
    assert flexray("--resume", "nowhere").exit_code == 2
    assert [f.name for f in Path().iterdir()] == ["c.yaml"]
