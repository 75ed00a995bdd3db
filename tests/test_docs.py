"""The README and docs/: every command in them is run, every config loaded, every piece of Python executed, every link followed.

What takes Ray or minutes is parsed and its config checked here, and run by the tests marked slow.
"""

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from typer.testing import CliRunner

import flexray
from flexray import api, config, recipe
from flexray.cli import app
from flexray.comparison import spec as comparisons
from flexray.data import builtin
from flexray.sweeping import spec as sweeps
from tests.report.folders import make, sweep

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [
    "rounds=1",
    "data.max_train_rows=12",
    "data.max_valid_rows=4",
    "data.max_test_rows=4",
    "train={steps: 1, batch: 2}",
    "resources.backend=inline",
]
FILLED = {
    "RUN": "runs/first",
    "NAME": "client-0",
    "a,b,c": "client-0,client-1,client-2",
    "FILE": "newcomer.jsonl",
    "FOLDER": "dolly",
}
"""What stands for something of the reader's own."""
SMALLER = ("simulate", "plan", "partition")
"""Commands that take `--set`: they are given a small job."""
LONG = ("sweep", "compare", "pretrain")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        found += [
            Block(str(page.relative_to(ROOT)), text[: m.start()].count("\n") + 2, m[1], m[2])
            for m in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        ]
    return found


def _commands() -> list[tuple[str, str]]:
    """Where, and what: lines of blocks without a language, and of Python files that say how they are called."""
    found = []
    for block in _blocks():
        if block.language in ("", "console", "sh", "bash"):
            lines = [(i, line.removeprefix("$ ")) for i, line in enumerate(block.text.splitlines())]
            found += [
                (f"{block.page}:{block.line + i}", line) for i, line in lines if re.match(r"(flexray|make|python -m) ", line)
            ]
    return found


def _python(named: bool) -> list[Block]:
    """Pieces of Python; those that are named are files that the next command takes."""
    return [b for b in _blocks() if b.language == "python" and bool(re.match(r"# \S+\.py: ", b.text)) == named]


COMMANDS = _commands()
OURS = [(at, line) for at, line in COMMANDS if line.startswith("flexray")]
SHORT = [(at, line) for at, line in COMMANDS if line.split()[0] == "flexray" and line.split()[1] not in LONG]


@pytest.fixture(scope="module")
def there(cache, tmp_path_factory):
    """A reader's folder: a finished run, a finished sweep, files of their own."""
    path = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "configs", path / "configs")
    rows = list(builtin.public_rows(0, 240))
    (path / "newcomer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    renamed = {"instruction": "question", "input": "context", "output": "answer", "domain": "topic"}
    (path / "answers.jsonl").write_text(
        "".join(json.dumps({renamed.get(k, k): v for k, v in row.items()}) + "\n" for row in rows)
    )
    (path / "dolly").mkdir()
    kinds = ("closed_qa", "information_extraction", "classification", "summarization")
    for split in ("train", "test"):
        text = "".join(json.dumps({**row, "category": kinds[i % 4]}) + "\n" for i, row in enumerate(rows[:80]))
        (path / "dolly" / f"{split}.jsonl").write_text(text)
    x = config.load(None, (*SMALL, f"storage.cache={cache}", "clients=3", "algorithm.graft.calibration_rows=4"))
    api.simulate(x, path / "runs" / "first")
    for name in ("flex", "fedavg"):
        make(path / "runs" / name, method=name)
    sweep(path / "runs" / "lr", {"train.lr": [0.001, 0.01], "seed": [0, 1]}, lambda p: p["train.lr"])
    return path


@pytest.fixture
def here(there, monkeypatch):
    monkeypatch.chdir(there)
    monkeypatch.setenv("COLUMNS", "100")
    return there


def arguments(line: str, cache: Path, out: Path) -> list[str]:
    """A line as the shell would give it, with a small job and places of its own."""
    words = [FILLED.get(word, word) for word in shlex.split(line, comments=True)[1:]]
    words = [str(out) if word == "DIR" else re.sub(r"=FOLDER$", "=dolly", word) for word in words]
    if words[0] in SMALLER and "--resume" not in words:
        words += [part for value in (*SMALL, f"storage.cache={cache}") for part in ("--set", value)]
        words += ["--no-measure"] if words[0] == "plan" else []
    if "--out" in words and words[0] == "simulate":
        words[words.index("--out") + 1] = str(out)
    return words


def test_there_is_something_to_test():
    assert len(COMMANDS) > 25 and len(SHORT) > 15


@pytest.mark.parametrize(("at", "line"), OURS, ids=[at for at, _ in OURS])
def test_every_command_is_one(at, line):
    words = [FILLED.get(word, word) for word in shlex.split(line, comments=True)[1:]]
    group: Any = typer.main.get_command(app)
    if words[0].startswith("-"):
        assert words[0] in {name for option in group.params for name in option.opts}
        return
    command = group.get_command(None, words[0])
    assert command is not None, f"{words[0]} is no command"
    command.make_context(words[0], words[1:])  # raises for an option that there is not


@pytest.mark.parametrize(("at", "line"), SHORT, ids=[at for at, _ in SHORT])
def test_every_command_runs(at, line, here, cache, tmp_path):
    if "--install-completion" in line:
        pytest.skip("it would write into the reader's shell")
    if "my.yaml" in line:
        readme = next(b.text for b in _blocks() if b.text.startswith("# my.yaml") and b.page == "README.md")
        (here / "my.yaml").write_text(readme.replace("./model", "tiny"))
    if "--resume" in line:
        line = line.replace("runs/flex", "runs/first")
    words = arguments(line, cache, tmp_path / "out")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize(
    ("at", "line"), [c for c in COMMANDS if not c[1].startswith("flexray")], ids=lambda c: c if ":" in c else None
)
def test_every_other_command_is_there(at, line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"make {words[1]}"
    else:
        assert importlib.util.find_spec(words[2]), line


@pytest.mark.parametrize("line", [line for _, line in COMMANDS if line.split()[1] in LONG and "--resume" not in line])
def test_the_configs_of_what_takes_long(line, here):
    words = shlex.split(line, comments=True)
    load = {"sweep": sweeps.load, "compare": comparisons.load, "pretrain": recipe.load}[words[1]]
    load(Path(words[2]), ())


@pytest.mark.parametrize("block", [b for b in _blocks() if b.language == "yaml"], ids=str)
def test_every_config_loads(block, here):
    values = yaml.safe_load(block.text)
    if "sweep" in values:
        sweeps.read(values)
    elif "compare" in values:
        comparisons.read(values)
    else:
        config.Experiment(**values)


@pytest.mark.parametrize("block", _python(named=False), ids=str)
def test_every_piece_of_python_runs(block, here, monkeypatch, cache, tmp_path):
    """With a small job for whatever is simulated."""
    real = flexray.simulate

    def small(x, *_, **__):
        changed = config.load(None, (*SMALL, f"storage.cache={cache}", "clients=2"))
        return real(changed.model_copy(update={"algorithm": x.algorithm}), tmp_path / "run")

    monkeypatch.setattr(flexray, "simulate", small)
    exec(compile(block.text, str(block), "exec"), {})


@pytest.mark.parametrize("block", _python(named=True), ids=str)
def test_every_file_of_the_reader_does_what_its_first_line_says(block, here, cache, tmp_path):
    ((name, command),) = re.findall(r"\A# (\S+\.py): (.*)", block.text)
    (here / name).write_text(block.text)
    done = CliRunner().invoke(app, arguments(command, cache, tmp_path / "out"))
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", text):
        there = (page.parent / target if target else page).read_text()
        anchors = {
            re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", there, re.MULTILINE)
        }
        assert anchor in anchors, f"{target}#{anchor}"


def test_every_page_is_named_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in readme, page.name
    for name in flexray.folder.listing("algorithms"):
        assert f"`{name}`" in readme and f"`{name}`" in (ROOT / "docs" / "methods.md").read_text(), name


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for _, line in COMMANDS if line.split()[1] in ("sweep", "compare")])
def test_sweeps_and_comparisons_run(line, there, monkeypatch, cache, ray_here):
    monkeypatch.chdir(there)
    words = shlex.split(line, comments=True)[1:]
    if "--resume" not in words:
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
        small = [s for s in SMALL if not s.startswith(("resources", "data"))]
        words += [part for value in (*small, f"storage.cache={cache}", "clients=2") for part in ("--set", value)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
