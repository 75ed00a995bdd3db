"""Nothing that is read from disk is run: no pickle, no unsafe YAML, no weights but safetensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from flexray.folder import PACKAGE

READERS = {
    "pickle": {"load", "loads", "Unpickler"},
    "dill": {"load", "loads"},
    "cloudpickle": {"load", "loads"},
    "joblib": {"load"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "torch": {"load"},
    "yaml": {"load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"},
    "pandas": {"read_pickle"},
}
BARE = {"eval", "__import__"}
PIPES = {"sim/planning/apart.py"}
"""Files that unpickle what a process of their own, which they have just started, tells through a pipe."""
RUNS_TEXT = {"folder.py"}
"""The one that runs a user's own file, which the config has named."""


def calls(file: Path) -> Iterator[tuple[ast.Call, str, str]]:
    """Calls, with the module (as it is imported there) and the name that is called."""
    tree = ast.parse(file.read_text())
    known: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node, *known.get(node.func.id, ("", node.func.id))
            elif isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                module, name = known.get(owner, (owner, ""))
                yield node, f"{module}.{name}".rstrip("."), node.func.attr


def told(call: ast.Call, name: str) -> str | None:
    """A keyword's value, as it is written."""
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def unsafe(file: Path) -> Iterator[str]:
    own = file.relative_to(PACKAGE).as_posix()
    for call, module, name in calls(file):
        at = f"{own}:{call.lineno} {module}.{name}"
        if name in READERS.get(module, ()) and not (module == "pickle" and own in PIPES):
            yield at
        if (module, name) == ("", "exec") and own not in RUNS_TEXT:
            yield at
        if (module, name) in {("", bare) for bare in BARE}:
            yield at
        if (module, name) == ("yaml", "load") and ast.unparse(call.args[1]) != "_Loader":
            yield at
        if (module, name) == ("numpy", "load") and told(call, "allow_pickle") not in (None, "False"):
            yield at
        if told(call, "use_safetensors") == "False" or told(call, "weights_only") == "False":
            yield at
        if told(call, "trust_remote_code") == "True":
            yield at


def test_nothing_from_disk_is_run():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    assert [found for file in files for found in unsafe(file)] == []


def test_what_would_run_is_found(tmp_path, monkeypatch):
    """Otherwise the test above would say nothing."""
    monkeypatch.setattr("tests.fuzz.test_code_from_disk.PACKAGE", tmp_path)
    lines = (
        "import torch\ntorch.load('x')",
        "from pickle import load\nload(f)",
        "import pickle as p\np.Unpickler(f).load()",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(f)",
        "kind.from_pretrained(x, use_safetensors=False)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "eval(text)",
        "exec(text)",
    )
    for i, line in enumerate(lines):
        (tmp_path / f"x{i}.py").write_text(line + "\n")
        assert len(list(unsafe(tmp_path / f"x{i}.py"))) == 1, line


def test_the_yaml_loader_makes_plain_values_only():
    import yaml

    from flexray.raw import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)
    assert all(not str(tag).startswith("tag:yaml.org,2002:python/") for tag in _Loader.yaml_constructors)
