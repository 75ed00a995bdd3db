"""The README and docs/: every command in them runs or at least parses, files load, code runs, links lead somewhere, and what is made
from the code is what the code makes."""

import importlib.util
import json
import re
import shlex
import shutil
import sys
import types
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from typer.testing import CliRunner

from flexray import api, pretrain, raw
from flexray import compare as comparing
from flexray import sweep as sweeping
from flexray.cli import app
from flexray.comparison import spec as compare_spec
from flexray.config import Experiment
from flexray.folder import listing
from flexray.reference import page, roots, schema, told
from flexray.report import following
from flexray.report import page as report
from flexray.sweeping import spec as sweep_spec
from flexray.sweeping.records import Record, Records

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FILL = {
    r"\bRUN\b": "runs/first",
    r"\bNAME\b": "client-0",
    r"--clients a,b,c": "--clients client-0,client-1",
    r"\bFILE\b": "newcomer.jsonl",
    r"\bFOLDER\b": "dolly",
    r"\bMODEL\b": "tiny",
    r"(compare .*)--resume DIR": r"\1--resume runs/c",
    r"(sweep .*)--resume DIR": r"\1--resume runs/lr",
    r"clients=10000": "clients=4",
    r"cohort=100\b": "cohort=2",
    r"^(flexray plan(?!.*--no-measure).*)": r"\1 --no-measure",
    r"(--client client-0 --client client-1) --client client-2": r"\1",
}
"""Placeholders, and what would take long; DIR is a new folder each time."""

DRY = ("simulate", "compare", "sweep", "pretrain")
"""Commands that the default suite parses and checks, and stops where the work begins."""
OUTSIDE = ("tensorboard", "pip")

SMALL = (
    "rounds=1", "clients=2", "seats=1", "train={steps: 2, batch: 2}", "resources.backend=inline", "data.max_train_rows=12",
    "data.max_valid_rows=4", "data.max_test_rows=4", "evaluation={metrics: [loss], inside_rows: 1}",
    "algorithm={name: flex, graft: {calibration_rows: 4}}",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A command on a page, and the lines below it that are its output."""

    page: str
    command: str
    output: tuple[str, ...] = ()


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks: language and text."""
    return FENCE.findall(page.read_text())


def is_command(line: str) -> bool:
    return line.removeprefix("$ ").startswith(("flexray ", "make ", "python -m ", *OUTSIDE))


def shown() -> list[Shown]:
    found: dict[str, Shown] = {}
    for path in PAGES:
        name = path.relative_to(ROOT).as_posix()
        for language, text in blocks(path):
            lines = text.splitlines()
            if language not in ("", "console") or not any(map(is_command, lines)):
                continue
            at = [i for i, line in enumerate(lines) if is_command(line)]
            for i, end in zip(at, [*at[1:], len(lines)], strict=True):
                command = shlex.join(shlex.split(lines[i].removeprefix("$ "), comments=True))
                output = tuple(line.strip() for line in lines[i + 1 : end] if line.strip())
                found.setdefault(command, Shown(name, command, output))
        prose = FENCE.sub("", path.read_text())
        for text in re.findall(r"`(flexray \w[^`\n]*)`", prose):
            command = shlex.join(shlex.split(text))
            command = command if " " in command.removeprefix("flexray ") else f"{command} --help"  # named, not called
            found.setdefault(command, Shown(name, command))
    return list(found.values())


COMMANDS = shown()
OWN = [c for c in COMMANDS if c.command.startswith("flexray ")]
TELLING = [c for c in OWN if c.page == "docs/faq.md" and c.output]
QUIET = [c for c in OWN if c not in TELLING]


def named_files() -> dict[str, str]:
    """Blocks of Python and YAML that begin with `# NAME`, by that name."""
    found = {}
    for path in PAGES:
        for language, text in blocks(path):
            if name := re.match(r"# ([\w-]+\.(?:py|yaml))\b", text):
                assert language == name[1].rpartition(".")[2].replace("py", "python"), name[1]
                assert found.setdefault(name[1], text) == text, f"{name[1]} is shown in two forms"
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):
    """A folder with all that the pages speak of: their files, data, the ready configs, a finished run, a sweep, a comparison."""
    here = tmp_path_factory.mktemp("docs")
    for name, text in named_files().items():
        (here / name).write_text(text)
    shutil.copytree(ROOT / "configs", here / "configs")
    write(
        here / "answers.jsonl",
        [{"question": f"q {i}", "context": "", "answer": f"a {i % 7}", "topic": "uv"[i % 2]} for i in range(160)],
    )
    write(here / "rows.jsonl", [{"instruction": "a b", "output": "c"}] * 30)
    kinds = ("closed_qa", "information_extraction", "classification", "summarization")
    rows = [{"instruction": f"do {i}", "input": "", "output": f"done {i % 5}", "category": kinds[i % 4]} for i in range(400)]
    (here / "dolly").mkdir()
    write(here / "dolly" / "train.jsonl", rows)
    write(
        here / "newcomer.jsonl",
        [{"instruction": f"who is {i}", "input": "", "output": "Eva", "domain": "x"} for i in range(20)],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        sets = [part for text in (*SMALL, f"storage.cache={cache}") for part in ("--set", text)]
        made = CliRunner().invoke(
            app, ["simulate", "--out", "runs/first", "--quiet", "--set", "storage.checkpoint=copies", *sets]
        )
        assert made.exit_code == 0, made.output
        shutil.copytree("copies/first", "copies/kept")
        Path("key").write_text("ab" * 32)
        Path("key").chmod(0o600)
        for name in ("flex", "fedavg"):
            shutil.copytree("runs/first", f"runs/{name}")
        for name, spec in (("c/compare", "compare"), ("lr/sweep", "sweep_lr")):
            Path(f"runs/{name}.yaml").parent.mkdir()
            shutil.copy(f"configs/{spec}.yaml", f"runs/{name}.yaml")
        swept(Path("runs/lr"))
    return here


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def swept(path: Path) -> None:
    """A sweep of two trials, each the finished run."""
    over = {"train.lr": [0.001, 0.01]}
    (path / "sweep.yaml").write_text(yaml.safe_dump({"sweep": {"over": over}}))
    for number, lr in enumerate(over["train.lr"]):
        Records(path).save(Record(number, {"train.lr": lr}, {}, status="finished"))
        shutil.copytree("runs/first", path / "runs" / f"{number:03d}")


@pytest.fixture
def reached(place, monkeypatch):
    """Calls that would have begun long work, which ends there without an error."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "300")
    calls: list[str] = []

    def stop(name: str):
        def stopped(*_, **__):
            calls.append(name)
            raise typer.Exit(0)

        return stopped

    monkeypatch.setattr(api, "opened", lambda path, out=None, address=None: out or Path(path))
    doors = [
        (api, "simulate"),
        (api, "resume"),
        (comparing, "compare"),
        (comparing, "so_far"),
        (sweeping, "sweep"),
        (pretrain, "run"),
    ]
    for module, name in [*doors, (following, "follow")]:
        monkeypatch.setattr(module, name, stop(name))
    return calls


def filled(command: str, number: int) -> list[str]:
    """The arguments of a flexray command, with something for each placeholder."""
    for placeholder, value in FILL.items():
        command = re.sub(placeholder, value, command)
    command = re.sub(r"\bDIR\b", f"out/{number}", command)
    return shlex.split(command.partition(" '>' ")[0])[1:]


def call(shown: Shown, cache: Path):
    arguments = filled(shown.command, COMMANDS.index(shown))
    if arguments[0] in ("plan", "partition"):
        arguments += ["--set", f"storage.cache={cache}"]
    return CliRunner().invoke(app, arguments)


def test_pages_have_commands():
    assert len(OWN) > 60
    assert len(TELLING) > 12


@pytest.mark.parametrize("shown", QUIET, ids=lambda c: c.command)
def test_every_command_runs_or_would(shown, reached, cache, monkeypatch):
    """What takes long is stopped where its work would begin, its arguments, config and folders having been checked."""
    if shown.command.startswith("flexray report") and shown.command != "flexray report runs/flex":
        monkeypatch.setattr(report, "write", lambda runs, place, _: (reached.append("write"), (place, []))[1])
        monkeypatch.setattr(report, "state", lambda told: "")
    if "--client late" in shown.command:  # whoever came late is there, whichever of the pages' commands ran before
        CliRunner().invoke(app, shlex.split("join runs/first --data newcomer.jsonl --name late --steps 1 --again"))
    result = call(shown, cache)
    assert result.exit_code == 0, result.output
    if (
        shown.command.split()[1] in DRY
        and "--help" not in shown.command
        and "sweep --resume runs/lr --partial" not in shown.command
    ):
        assert len(reached) == 1


@pytest.mark.parametrize("shown", TELLING, ids=lambda c: c.command)
def test_messages_are_what_is_said(shown, place, cache, monkeypatch):
    """As in a process of its own, where no Ray of other tests is."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "300")
    result = call(shown, cache)
    said = " ".join(result.output.split())
    assert not [line for line in shown.output if line not in said], result.output
    assert result.exit_code == 2


@pytest.mark.parametrize("shown", [c for c in COMMANDS if c not in OWN], ids=lambda c: c.command)
def test_other_commands_are_known(shown):
    program, *rest = shown.command.split()
    if program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "python":
        assert importlib.util.find_spec(rest[1])
    else:
        assert program in OUTSIDE


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_code_runs(path, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(api, "simulate", lambda *_: api.load_run("runs/first"))
    for language, text in blocks(path):
        if language == "python" and not re.match(r"# [\w-]+\.py\b", text):
            module = types.ModuleType("shown")
            monkeypatch.setitem(sys.modules, module.__name__, module)
            exec(compile(text, path.name, "exec"), module.__dict__)


def every_yaml() -> list[str]:
    return [text for path in PAGES for language, text in blocks(path) if language == "yaml"]


@pytest.mark.parametrize("text", every_yaml(), ids=lambda text: text[:30])
def test_yaml_loads_and_fits_the_schema(text, place, monkeypatch):
    monkeypatch.chdir(place)
    values = raw._parse(text)
    assert not list(validator().iter_errors(values))
    if "compare" in values:
        assert compare_spec.read(values).cells
    elif "sweep" in values:
        assert sweep_spec.read(values).axes
    else:
        Experiment(**values)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{path.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()).replace(" ", "-") for head in heads}


# what is made from the code


def test_what_is_made_from_the_code_is_up_to_date():
    """`make docs` mends it."""
    assert (ROOT / "docs/configuration.md").read_text() == page.markdown() + "\n"
    assert json.loads((ROOT / "docs/config.schema.json").read_text()) == json.loads(json.dumps(schema.config()))
    assert json.loads((ROOT / "docs/recipe.schema.json").read_text()) == json.loads(json.dumps(schema.recipe()))


def test_every_key_says_what_it_means():
    named = [cls for section in ("algorithm", "data.partition") for _, cls in roots.named(section)]
    assert not [name for root in (Experiment, roots.Recipe, *roots.EXTRA.values(), *named) for name in told.missing(root)]


def test_the_methods_page_has_every_method():
    text = (ROOT / "docs/methods.md").read_text()
    assert not [name for name in listing("algorithms") if f"`{name}`" not in text]


@once
def validator(recipe: bool = False) -> jsonschema.Draft7Validator:
    found = schema.recipe() if recipe else schema.config()
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_the_schema_takes_every_ready_config(path):
    found = validator(recipe=path.name in ("tiny.yaml", "quality_base.yaml"))
    assert not [e.message for e in found.iter_errors(raw.read_yaml(path))]


@pytest.mark.parametrize(
    "values",
    [
        {"rouds": 3},
        {"rounds": 0},
        {"rounds": "many"},
        {"train": {"lrr": 1}},
        {"algorithm": "fedprx"},
        {"algorithm": {"name": "flex", "mu": 1}},
        {"algorithm": {"mu": 1}},
        {"algorithm": {"name": "flex", "gate": {"init": "open"}}},
        {"data": {"partition": {"name": "dirichlet", "alhpa": 1}}},
        {"evaluation": {"metrics": ["los"]}},
        {"compare": {"seeds": [0]}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_config_refuses(values):
    assert list(validator().iter_errors(values))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"train": None, "algorithm": {"gate": {"init": "closed"}}},
        {"algorithm": {"name": "./near.py", "weight": 0.2}, "data": {"partition": {"overlap": 0.2}}},
        {"data": {"partition": {"name": "column", "column": "x"}}, "clients": None, "seats": 4},
        {"evaluation": {"metrics": ["loss", "./fluent.py"], "clients": 100}, "tracking": []},
    ],
    ids=str,
)
def test_the_schema_takes_what_the_config_takes(values, place, monkeypatch):
    monkeypatch.chdir(place)
    assert not [e.message for e in validator().iter_errors(values)]
    Experiment(**values)


@pytest.mark.parametrize("name", [name for name, _ in roots.named("algorithm")])
def test_the_schema_takes_every_method_in_full(name):
    """What a run folder's config.yaml has: every key, with its default."""
    spec = Experiment(algorithm={"name": name}, train={"steps": 20}).spec()
    assert not [e.message for e in validator().iter_errors(json.loads(json.dumps(spec)))]


@pytest.mark.slow
@pytest.mark.parametrize("shown", [c for c in QUIET if c.command.startswith("flexray simulate ")], ids=lambda c: c.command)
def test_every_run_truly_runs(shown, place, cache, monkeypatch):
    """Small, in one process; with what the command sets itself going before."""
    monkeypatch.chdir(place)
    arguments = filled(shown.command, number := COMMANDS.index(shown))
    if {"--help", "--resume", "--address"} & {*arguments}:
        return
    taken = {text.partition("=")[0].split(".")[0] for text in arguments}
    small = [text for text in SMALL if text.partition("=")[0].split(".")[0] not in taken - {"data"}]
    small += ["cohort=2"] if any(text.startswith("cohort=") for text in arguments) else []
    small += ["cohort=4", "system.buffer=2"] if "configs/fedbuff.yaml" in arguments else []
    sets = [part for text in (*small, "rounds=1", "clients=4", f"storage.cache={cache}") for part in ("--set", text)]
    arguments = (
        [a if a != arguments[arguments.index("--out") + 1] else f"out/run-{number}" for a in arguments]
        if "--out" in arguments
        else arguments
    )
    result = CliRunner().invoke(app, [*arguments, *sets])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_comparison_truly_runs(place, cache, monkeypatch):
    monkeypatch.chdir(place)
    sets = [f"storage.cache={cache}", "compare.seeds=[0]", "compare.resamples=100", *SMALL[:-1]]
    arguments = ["compare", "compared.yaml", "--out", "out/compared", *(part for text in sets for part in ("--set", text))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["compare", "--resume", "out/compared", "--partial"]).exit_code == 0


@pytest.mark.slow
def test_a_sweep_truly_runs(place, cache, monkeypatch):
    monkeypatch.chdir(place)
    small = [text for text in SMALL if not text.startswith(("evaluation", "train", "resources"))]
    sets = [f"storage.cache={cache}", "sweep.samples=2", "train.steps=2", "train.batch=2", *small]
    arguments = ["sweep", "configs/sweep_lr.yaml", "--out", "out/lr", *(part for text in sets for part in ("--set", text))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
