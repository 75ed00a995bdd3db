"""The floors of the house, read off the source: imports only go down, heavy libraries stay in their rooms, files stay short."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from flexray.folder import PACKAGE

FLOORS = (
    ("errors",),
    ("local_files",),
    ("state", "parts", "folder", "raw", "statistics"),
    ("algorithm", "metric", "tracker", "schema", "sections", "server", "part_problems"),
    ("strength", "sections_privacy", "sections_system"),
    ("algorithms", "models", "data", "metrics", "trackers", "findings"),
    ("protection",),
    ("combinations",),
    ("config",),
    ("sim", "recipe"),
    ("cluster", "tracking"),
    ("serve", "afar"),
    ("backend",),
    ("api", "pretrain"),
    ("comparison",),
    ("sweeping",),
    ("report", "reference", "completing"),
    ("compare", "sweep"),
    ("answering",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""From the ground up. A room may look at the floors below and at itself, never at its neighbours."""

ROOMS = {
    "ray": ("sim/actors.py", "sim/crew.py", "sim/nodes.py", "cluster.py", "afar.py", "pretrain.py", "compare.py", "sweep.py"),
    "optuna": ("sweeping/suggesting.py",),
    "transformers": ("models/", "serve/exported/"),
    "tokenizers": ("models/",),
    "huggingface_hub": ("models/", "data/"),
    "datasets": ("data/",),
    "pyarrow": (
        "data/",
        "sim/run_files.py",
        "sim/run_folder.py",
        "sim/tables.py",
        "sim/place.py",
        "sim/columns.py",
        "sweeping/results.py",
    ),
    "pydantic": (
        "config.py",
        "sections.py",
        "sections_privacy.py",
        "sections_system.py",
        "recipe.py",
        "comparison/spec.py",
        "sweeping/spec.py",
    ),
    "typer": ("cli.py", "commands/", "answering.py", "completing.py"),
    "matplotlib": ("report/",),
    "jinja2": ("report/page.py",),
    "tensorboardX": ("trackers/tensorboard.py",),
    "dp_accounting": ("sim/privacy/accountant.py",),
}
"""Library to the only places that may import it."""

FOLDERS = ("algorithms", "metrics", "data/partitions", "models/families", "trackers", "report/plots")
"""Folders that are registries: their files do not know each other."""

LONG_FUNCTIONS = {"sim/planning/plan.py:prepare": "builds two values with many fields, nothing else"}
HEAVY = ("torch", "ray", "transformers", "pyarrow", "datasets", "numpy", "pydantic", "optuna", "pandas")


@dataclass(frozen=True)
class Import:
    """One import statement's module. always: it happens as soon as the file is imported."""

    file: str
    line: int
    module: str
    always: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"

    @property
    def room(self) -> str:
        """The file's own room, or that of the module within flexray."""
        return Path(self.file).parts[0].removesuffix(".py")

    @property
    def target(self) -> str:
        return self.module.split(".")[1]


def _modules(node: ast.AST) -> list[str]:
    """The modules that an import statement names, `from flexray import folder` as flexray.folder."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide the floor"
        packages = ("flexray", *(f"flexray.{room}" for floor in FLOORS for room in floor))
        return [f"{node.module}.{a.name}" if node.module in packages else str(node.module) for a in node.names]
    return []


def _imports(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text())
    lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.If)) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for module in _modules(node):
            yield Import(file.relative_to(PACKAGE).as_posix(), getattr(node, "lineno", 0), module, id(node) not in lazy)


FILES = sorted(f for f in PACKAGE.rglob("*.py") if f != PACKAGE / "__init__.py")
IMPORTS = [found for file in FILES for found in _imports(file)]
OWN = [i for i in IMPORTS if i.module.startswith("flexray.")]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}


def test_every_room_has_its_floor():
    rooms = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in FILES}
    assert rooms <= set(HEIGHT), f"give them a floor: {rooms - set(HEIGHT)}"


def test_imports_only_go_down():
    wrong = [str(i) for i in OWN if i.target != i.room and HEIGHT.get(i.target, 99) >= HEIGHT[i.room]]
    assert not wrong


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_stay_in_their_rooms(library):
    doors = ROOMS[library]
    wrong = [str(i) for i in IMPORTS if i.module.split(".")[0] == library and not i.file.startswith(doors)]
    assert not wrong


def test_ray_tune_has_one_door():
    assert {i.file for i in IMPORTS if i.module.startswith("ray.tune")} == {"sweep.py"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_of_a_registry_are_blind_to_each_other(folder):
    package = f"flexray.{folder.replace('/', '.')}"
    wrong = [str(i) for i in OWN if i.file.startswith(folder) and i.module.startswith(package)]
    assert not wrong


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_of_a_registry_has_its_line_for_the_listing(folder):
    files = [f for f in (PACKAGE / folder).glob("*.py") if f.name != "__init__.py"]
    assert files
    assert not [f.name for f in files if not ast.get_docstring(ast.parse(f.read_text()))]


def test_files_are_short():
    long = {f.relative_to(PACKAGE).as_posix(): n for f in FILES if (n := len(f.read_text().splitlines())) > 250}
    assert not long


def test_functions_are_short():
    lengths = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                lengths[f"{file.relative_to(PACKAGE).as_posix()}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    long = {name: n for name, n in lengths.items() if n > 40}
    assert long.keys() <= LONG_FUNCTIONS.keys(), long
    assert median(lengths.values()) < 10


def _loaded(code: str) -> set[str]:
    """Which of the heavy libraries a fresh process has loaded after `code`."""
    tail = "\nimport json, sys\nprint('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1])) & set(HEAVY)


def _command(*arguments: str) -> str:
    """Code that runs the command line and survives its exit."""
    return (
        f"import sys\nsys.argv = ['flexray', *{list(arguments)!r}]\n"
        "from flexray.cli import app\ntry:\n    app()\nexcept SystemExit:\n    pass"
    )


def test_importing_flexray_loads_nothing_heavy():
    assert not _loaded("import flexray")


def test_a_config_is_read_and_checked_without_torch():
    code = (
        "import flexray\nfrom flexray.config import load\nload()\n"
        "try:\n    flexray.Experiment(rounds=0)\nexcept flexray.ConfigError:\n    pass"
    )
    assert _loaded(code) <= {"pydantic", "numpy"}


def test_help_loads_nothing_heavy():
    assert not _loaded(_command("--help"))
    assert _loaded(_command("simulate", "--help")) <= {"pydantic"}  # typer itself may load it


@pytest.mark.parametrize("arguments", [("list",), ("simulate", "--set", "rouds=3"), ("plan", "nowhere.yaml")])
def test_list_and_wrong_configs_answer_without_torch(arguments):
    assert _loaded(_command(*arguments)) <= {"pydantic", "numpy"}
