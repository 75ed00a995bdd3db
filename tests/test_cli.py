"""The command line: what it prints where, its exit codes, and that it answers fast and leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flexray import api, folder
from flexray.cli import app
from flexray.errors import ConfigError, RunError

HEAVY = {"torch", "ray", "transformers", "pyarrow", "datasets", "numpy", "matplotlib", "yaml", "flexray.config"}
SMALL = (
    "rounds=2",
    "clients=3",
    "data.max_train_rows=12",
    "data.max_valid_rows=4",
    "data.max_test_rows=4",
    "train={steps: 2, batch: 2}",
    "algorithm.graft.calibration_rows=4",
    "resources.backend=inline",
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Every test starts in an empty folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "here"


@pytest.fixture
def flexray(cache):
    """Calls a command: `flexray("plan", "--json", sets=("rounds=3",))` gives the exit code and both outputs."""

    def call(*arguments, sets: tuple[str, ...] | None = None):
        if sets is not None:
            arguments += tuple(part for text in (*SMALL, f"storage.cache={cache}", *sets) for part in ("--set", text))
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return call


def refused(result, *problems: str) -> None:
    assert result.stderr.splitlines() == ["Wrong input:", *(f"  {p}" for p in problems)]
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.fixture
def broken(monkeypatch):
    """Makes the run raise in its midst, its folder being there."""

    def breaks(error: BaseException) -> None:
        def simulate(experiment, out, **_):
            Path(out).mkdir()
            (Path(out) / "config.yaml").touch()
            raise error

        monkeypatch.setattr(api, "simulate", simulate)

    return breaks


# what is loaded


def loaded(*arguments: str) -> set[str]:
    code = (
        f"import sys\nsys.argv = ['flexray', *{list(arguments)!r}]\n"
        "from flexray.cli import app\ntry:\n    app()\nexcept SystemExit:\n    pass\n"
        "print('\\n' + ' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy():
    assert not loaded("--help") & {*HEAVY, "pydantic"}


@pytest.mark.parametrize("command", ["simulate", "report", "plan", "partition", "list", "pretrain"])
def test_a_commands_help_loads_nothing_heavy(command):
    """Typer from 0.29 on reads a command's options with pydantic, whosoever they are."""
    assert not loaded(command, "--help") & HEAVY


@pytest.mark.parametrize("command", [["list"], ["list", "metrics"], ["--version"]])
def test_lists_and_the_version_load_nothing_heavy(command):
    assert not loaded(*command) & HEAVY


@pytest.mark.parametrize("command", ["simulate", "plan", "partition"])
@pytest.mark.parametrize("text", ["rouds=3", "alpha=1", "algorithm=fedprx"])
def test_a_wrong_config_is_refused_without_torch(command, text):
    assert not loaded(command, "--set", text) & {"torch", "ray", "transformers", "pyarrow", "datasets", "matplotlib"}


# help and lists


def test_every_command_says_what_it_does(flexray):
    result = flexray("--help")
    assert result.exit_code == 0
    for command in ("simulate", "compare", "report", "plan", "partition", "list", "pretrain", "--version"):
        assert command in result.stdout


def test_the_version(flexray):
    result = flexray("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "flexray")


def test_lists(flexray):
    everything = flexray("list").stdout
    for kind in folder.BASES:
        assert set(folder.listing(kind)) <= set(everything.split())
    assert "fedprox" in flexray("list", "algorithms").stdout
    assert "fedprox" not in flexray("list", "partitions").stdout
    assert max(map(len, everything.splitlines())) <= 80
    refused(flexray("list", "metric"), "list: expected a kind of thing, got 'metric'; did you mean 'metrics'?")


# wrong input

UNKNOWN = "expected a known key, got an unknown one"


@pytest.mark.parametrize("command", ["simulate", "plan", "partition"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rouds=3", f"rouds: {UNKNOWN}; did you mean 'rounds'?"),
        ("rounds=many", "rounds: expected a whole number of at least 1, got 'many'; the default is 10"),
        ("algorithm=fedprx",
         "algorithm.name: expected a known name or a path ending in .py, got 'fedprx'; did you mean 'fedprox'?"),
        ("seats=2,", "seats: expected auto or a whole number, got '2,'; the default is 'auto'"),
        ("algorithm.name=./mine.py", "algorithm.name: expected a readable file, got './mine.py'"),
        ("rounds", "--set: expected dotted.key=value, got 'rounds'; write for example --set train.lr=0.001"),
        ("data.path=rows.jsonl", "data.path: expected a file or folder, got 'rows.jsonl'"),
    ],
)  # fmt: skip
def test_wrong_input_is_told_on_one_screen_and_leaves_nothing(flexray, here, cache, command, text, problem):
    result = flexray(command, "--set", f"storage.cache={cache}", "--set", "resources.backend=inline", "--set", text)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "Wrong input:"
    assert result.stderr.splitlines()[1].startswith(f"  {problem}")
    assert (result.stdout, list(here.iterdir())) == ("", [])


def test_all_problems_one_a_line(flexray):
    result = flexray("simulate", "--set", "rounds=0", "--set", "train.lr=x")
    refused(
        result,
        "rounds: expected a whole number of at least 1, got 0; the default is 10",
        "train.lr: expected a number above 0, got 'x'; the default is 0.003",
    )


def test_a_config_that_is_not_there_and_one_that_is_no_yaml(flexray, here):
    (here / "dolly.yaml").write_text("rounds: [")
    result = flexray("plan", "doly.yaml")
    refused(
        result,
        "config: expected a readable file, got 'doly.yaml' (No such file or directory); did you mean 'dolly.yaml'?",
    )
    assert "config: expected YAML, got something else in 'dolly.yaml'" in flexray("plan", "dolly.yaml").stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("resources.gpu_per_client=1000", "resources.gpu_per_client: expected at most "),
        ("resources.cpu_per_client=1000", "resources.cpu_per_client: expected at most "),
        ("data.partition.column=nope", "data.partition.column: expected a column of the data ("),
        ("data.columns.output=anwser", "data.columns.output: expected "),
        ("data.columns.label=mood", "data.columns.label: expected "),
        ("model.path=./nowhere", "model.path: expected "),
    ],
)
def test_what_only_the_data_the_model_or_the_machine_can_tell(flexray, here, text, problem):
    result = flexray("simulate", sets=(text,))
    assert result.stderr.splitlines()[1].startswith(f"  {problem}"), result.stderr
    assert (result.exit_code, result.stdout, list(here.iterdir())) == (2, "", [])


def test_options_that_do_not_go_together(flexray, here):
    (here / "run").mkdir()
    refused(
        flexray("simulate", "--resume", "run", "--set", "rounds=3"),
        "--resume: expected no config or --set beside it, got some; a run goes on as it was started",
    )
    refused(flexray("simulate", "--quiet", "--json"), "--quiet: expected it without --json, got both; drop one of the two")
    refused(
        flexray("simulate", "--resume", "run"),
        "--resume: expected the folder of a run, or of its checkpoints, got 'run'; name one that has config.yaml or after-….json",
    )


def test_a_folder_that_is_not_empty_is_left_alone(flexray, here):
    (here / "run").mkdir()
    (here / "run" / "thesis.tex").write_text("all of it")
    result = flexray("simulate", "--out", "run", sets=())
    assert result.exit_code == 2
    assert "--out: expected a new or empty folder, got 'run'" in result.stderr
    assert [f.name for f in (here / "run").iterdir()] == ["thesis.tex"]


# runs


def test_a_run_tells_its_plan_its_rounds_its_scores_and_its_folder(flexray, here):
    result = flexray("simulate", "--out", "run", sets=())
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("method      flex · 2 rounds × 2 steps × 2 rows · seed 0")
    assert [line.split("   ")[0] for line in lines if line.startswith("round")] == ["round 1/2", "round 2/2"]
    assert lines[-1] == "run    run"
    assert max(map(len, lines)) <= 80
    assert "client-2" in result.stdout and "mean" in result.stdout
    assert (here / "run" / "summary.json").exists()


def test_json_is_the_only_thing_on_stdout(flexray):
    result = flexray("simulate", "--out", "run", "--json", sets=())
    summary = json.loads(result.stdout)
    assert summary == json.loads(Path("run/summary.json").read_text()) | {"path": "run"}
    assert "round 1/2" in result.stderr


def test_quiet_prints_the_folder_and_nothing_else(flexray):
    result = flexray("simulate", "--out", "run", "--quiet", sets=())
    assert (result.exit_code, result.stdout, result.stderr) == (0, "run\n", "")


def test_a_run_without_a_name_is_in_runs_under_time_method_and_seed(flexray, here):
    result = flexray("simulate", "--quiet", sets=("algorithm={name: fedavg}", "seed=7", "rounds=1"))
    path = Path(result.stdout.strip())
    assert (path.parent.name, path.name[15:]) == ("runs", "-fedavg-s7")
    assert (here / path / "summary.json").exists()


def test_plan_and_its_json(flexray, here):
    assert flexray("plan", sets=()).stdout.startswith("method      flex")
    facts = json.loads(flexray("plan", "--json", sets=("cohort=2",)).stdout)
    assert (facts["cohort"], len(facts["clients"]), facts["parameters"]["shared"] > 0) == (2, 3, True)
    assert list(here.iterdir()) == []


def test_partition_prints_a_table_and_writes_a_picture(flexray, here):
    result = flexray("partition", sets=())
    assert result.exit_code == 0
    assert [line.split()[:4] for line in result.stdout.splitlines() if line.startswith(" client-")] == [
        [f"client-{i}", "12", "4", "4"] for i in range(3)
    ]
    assert (here / "partition.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(flexray("partition", "--json", "--out", "p.png", sets=()).stdout)
    assert (len(facts["clients"]), facts["picture"]) == (3, "p.png")
    refused(
        flexray("partition", "--out", "p.pdf", sets=()),
        "--out: expected a file ending in .png, got 'p.pdf'; name one, such as partition.png",
    )


# failures


def test_a_run_that_failed(flexray, broken):
    broken(RunError("round 3: client-1 ran out of memory\nGo on with `flexray simulate --resume run`"))
    result = flexray("simulate", "--out", "run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "The run failed: round 3: client-1 ran out of memory",
        "Go on with `flexray simulate --resume run`",
    ]


def test_a_run_that_failed_unexpectedly_keeps_its_traceback_in_its_folder(flexray, broken):
    broken(ZeroDivisionError("by zero"))
    result = flexray("simulate", "--out", "run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "Failed unexpectedly: ZeroDivisionError: by zero",
        "The traceback is in run/error.log. Go on with:",
        "  flexray simulate --resume run",
    ]
    assert "Traceback" in Path("run/error.log").read_text()


def test_verbose_shows_the_traceback(flexray, broken):
    broken(ZeroDivisionError("by zero"))
    result = flexray("simulate", "--out", "run", "--verbose")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_without_a_folder_it_says_how_to_see_more(flexray, monkeypatch):
    monkeypatch.setattr(api, "make_plan", lambda _: 1 / 0)
    result = flexray("plan")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1] == "Run it again with --verbose to see where."


def test_a_config_error_of_a_client_far_away_is_wrong_input(flexray, broken):
    broken(ConfigError("data.path: expected a, got b; c"))
    refused(flexray("simulate", "--out", "run"), "data.path: expected a, got b; c")


def test_ctrl_c_says_how_to_go_on(flexray, broken):
    broken(KeyboardInterrupt())
    result = flexray("simulate", "--out", "run")
    assert result.exit_code == 130
    assert result.stderr.splitlines() == ["Stopped. Go on with:", "  flexray simulate --resume run"]


def test_ctrl_c_before_anything_was_written(flexray, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "simulate", interrupted)
    result = flexray("simulate", "--out", "run")
    assert (result.exit_code, result.stderr) == (130, "Stopped before anything was written.\n")


def test_a_reader_that_goes_away_is_no_news():
    """As in `flexray list | head -1`, with a pipe that nobody reads from the start."""
    code = (
        "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
        "sys.argv = ['flexray', 'list']\nfrom flexray.cli import app\napp()"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""


# pretraining


def test_workers_are_one_more_override(flexray, monkeypatch):
    from flexray import pretrain

    called = []
    monkeypatch.setattr(pretrain, "run", lambda *a: called.append(a))
    assert flexray("pretrain", "r.yaml", "--out", "base", "--set", "steps=3", "--workers", "2").exit_code == 0
    assert called == [(Path("r.yaml"), ("steps=3", "resources.workers=2"), Path("base"))]


def test_a_wrong_recipe(flexray, here):
    (here / "r.yaml").write_text("stps: 3\n")
    refused(flexray("pretrain", "r.yaml", "--out", "base"), f"stps: {UNKNOWN}; did you mean 'steps'?")
    assert not (here / "base").exists()
