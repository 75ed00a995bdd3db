"""The folder is the registry: a method, partition, metric or family is one file, and the file's name is its config name.

A name that ends in `.py` is a file of the user's own. Its source travels with the job, so that every process, on any
node, runs the same code.
"""

import ast
import hashlib
import inspect
import sys
import types
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from flexray.errors import ConfigError, did_you_mean
from flexray.local_files import contents

PACKAGE = Path(__file__).parent
LARGEST = 1 << 20
"""Bytes of a file of somebody's own."""
BASES = {
    "algorithms": ("flexray.algorithm", "Algorithm"),
    "data/partitions": ("flexray.data.partition", "Partition"),
    "metrics": ("flexray.metric", "Metric"),
    "models/families": ("flexray.models.family", "Family"),
    "trackers": ("flexray.tracker", "Tracker"),
    "report/plots": ("flexray.report.plot", "Plot"),
}


class Entry:
    """A class that a folder holds; `name` is its name in the config: its file's, or the path of a user's own file."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        own = cls.__module__.startswith("flexray.")
        cls.name = cls.__module__.rpartition(".")[2] if own else str(getattr(sys.modules[cls.__module__], "__file__", ""))


def listing(kind: str) -> dict[str, str]:
    """Every name in a folder with its one line: the first line of the file's docstring. Imports nothing."""
    return {f.stem: (ast.get_docstring(ast.parse(f.read_text())) or "").split("\n")[0] for f in _files(kind)}


def _files(kind: str) -> list[Path]:
    return sorted(f for f in (PACKAGE / kind).glob("*.py") if not f.stem.startswith("_"))


def read_source(name: str, key: str) -> str:
    """The text of a file of the user's own; `key` is the config key to blame."""
    try:
        return contents(name, LARGEST).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as e:
        raise ConfigError(
            f"{key}: expected a readable file, got {name!r} ({getattr(e, 'strerror', None) or e}); check the path"
        ) from None


def digest(source: str) -> str:
    """What the run folder records of a user's file."""
    return hashlib.sha256(source.encode()).hexdigest()


def is_file(name: str) -> bool:
    return name.endswith(".py")


def load(kind: str, name: str, key: str, plugins: Mapping[str, str] | None = None) -> type:
    """The one class of its kind that the file `name` defines; `key` is the config key to blame.

    `plugins` are source texts of the user's files that are known already: path to text.
    """
    module = _user_module(name, key, plugins or {}) if is_file(name) else _own_module(kind, name, key)
    base = getattr(import_module(BASES[kind][0]), BASES[kind][1])
    found = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__]
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise ConfigError(
            f"{key}: expected a file with exactly one subclass of {base.__name__}, got {names} in {name!r}; keep one"
        )
    return found[0]


def _own_module(kind: str, name: str, key: str) -> types.ModuleType:
    known = [f.stem for f in _files(kind)]
    if name not in known:
        raise ConfigError(f"{key}: expected a known name or a path ending in .py, got {name!r}; {did_you_mean(name, known)}")
    return import_module(f"flexray.{kind.replace('/', '.')}.{name}")


def _user_module(name: str, key: str, plugins: Mapping[str, str]) -> types.ModuleType:
    source = plugins[name] if name in plugins else read_source(name, key)
    module = types.ModuleType(f"flexray_user_{digest(name + source)[:12]}")
    if module.__name__ in sys.modules:  # the same file gives the same classes
        return sys.modules[module.__name__]
    module.__file__ = name
    sys.modules[module.__name__] = module  # dataclasses and pickle find a module by its name
    try:
        exec(compile(source, name, "exec"), module.__dict__)
    except (Exception, SystemExit) as e:
        del sys.modules[module.__name__]
        raise ConfigError(f"{key}: expected Python code that runs, got {type(e).__name__}: {e} in {name!r}; mend it") from e
    return module
