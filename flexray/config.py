"""The experiment: one frozen value that says everything about a run, read from YAML and checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from flexray import folder
from flexray.algorithm import Algorithm
from flexray.combinations import combinations, unknown_names
from flexray.data.options import Data
from flexray.data.options import problems as data_problems
from flexray.data.partition import Partition
from flexray.errors import ConfigError, expected
from flexray.findings import lines, tidied
from flexray.models.options import Model
from flexray.part_problems import problems
from flexray.raw import read
from flexray.raw import read_yaml as read_yaml
from flexray.schema import FOLDERS, Schema
from flexray.sections import Evaluation, Faults, Resources, Section, Storage, Train
from flexray.sections_privacy import Compress, Privacy
from flexray.sections_system import System

S = TypeVar("S", bound="Section")


class Experiment(Section):
    """One run. Every field has a default; `Experiment()` is the embedded demonstration."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of everything that is left to chance: the deal of rows, cohorts, starts, batches."""
    rounds: int = Field(default=10, gt=0)
    """How often clients and server exchange."""
    clients: int | None = Field(default=8, gt=0)
    """How many clients rows are dealt to; null: as many as come naturally (a client for each value of a column, say)."""
    cohort: int | float | None = None
    """Who takes part in a round: a number of clients, a share of them (0.25), or null for all."""
    algorithm: Algorithm
    """The method: its name alone, or a section with its `name` and settings; a path ending in .py is a file of your own."""
    model: Model = Model()
    """The pretrained model."""
    data: Data
    """The rows, and who gets them."""
    train: Train = Train()
    """Local training."""
    evaluation: Evaluation = Evaluation()
    """Scoring."""
    resources: Resources = Resources()
    """What actors may use, and where they run."""
    storage: Storage = Storage()
    """Where files are kept."""
    privacy: Privacy = Privacy()
    """What is done to updates before they leave a client."""
    compress: Compress = Compress()
    """Updates made smaller."""
    faults: Faults = Faults()
    """What happens to a client that fails."""
    system: System = System()
    """How fast and how reliable clients are, on a simulated clock."""
    tracking: tuple[str, ...] = ("tensorboard",)
    """Who is told of the run while it goes on: names of `flexray list trackers` or .py files; [] for nobody."""
    placement: Literal["auto", "one_per_client", "pooled"] = "auto"
    """`one_per_client`: an actor for each client; `pooled`: clients take turns on as many as fit; `auto`: the first while there
    is room."""
    seats: Literal["auto"] | int = "auto"
    """How many clients share an actor's forward; `auto`: measured, several where rounds get at least a tenth shorter."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """Source text of the user's own files by the path that names them; filled in on loading, so that it travels along."""

    def __init__(self, **values: Any):
        """From raw or built values; raises ConfigError with everything that is wrong."""
        values, chosen, found = _opened(values)
        try:
            super().__init__(**tidied(values, Schema(type(self), chosen), "", found))
        except ValidationError as e:
            found = lines(e.errors(), Schema(type(self), chosen)) | found
        if wrong := list(found.values()) or self._problems():
            raise ConfigError(*dict.fromkeys(wrong))

    def _problems(self) -> list[str]:
        """Values that are each well formed, and do not go together or name what is not there."""
        found = [f"algorithm.{p}" for p in (*self.algorithm.check(self), *problems(self.algorithm.parts))]
        return [*found, *data_problems(self.data), *combinations(self), *unknown_names(self)]

    def spec(self) -> dict[str, Any]:
        """The experiment as plain YAML values; `Experiment(**spec)` gives it back."""
        return _named(self)


def load(path: Path | None = None, sets: tuple[str, ...] = ()) -> Experiment:
    """From a YAML file (none: the defaults) and overrides `dotted.key=value`, whose values are YAML too."""
    return Experiment(**read(path, sets))


def section(cls: type[S], values: Mapping[str, Any]) -> S:
    """A section of its own from raw values. Raises ConfigError with everything that is wrong."""
    found: dict[str, str] = {}
    try:
        made = cls(**tidied(values, Schema(cls), "", found))
        if not found:
            return made
    except ValidationError as e:
        found = lines(e.errors(), Schema(cls)) | found
    raise ConfigError(*found.values())


def _opened(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, type], dict[str, str]]:
    """Names of methods and partitions become values of the class in their file.

    Gives the values, the classes by section, and what was wrong by dotted key; a default then stands in, so that the
    other keys are looked at too.
    """
    found: dict[str, str] = {}
    values = {**values, "plugins": _read_plugins(values, found)}
    built = partial(_build, sources=values["plugins"], found=found)
    values["algorithm"] = built("algorithm", values.get("algorithm"), {"name": "flex"})
    chosen = {"algorithm": type(values["algorithm"])}
    data = values.get("data")
    if data is None or isinstance(data, Mapping):
        partition = built("data.partition", (data or {}).get("partition"), {"name": "column", "column": "client"})
        values["data"] = {**_labelled(data or {}), "partition": partition}
        chosen["data.partition"] = type(partition)
    elif isinstance(data, Data):
        chosen["data.partition"] = type(data.partition)
    return values, chosen, found


def _labelled(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The built-in corpus has its labels in `domain`; of other data only the user knows."""
    columns = data.get("columns", {})
    if data.get("path", "builtin") != "builtin" or not isinstance(columns, Mapping):
        return data
    return {**data, "columns": {"label": "domain", **columns}}


def _read_plugins(values: Mapping[str, Any], found: dict[str, str]) -> dict[str, str]:
    """The source of every file that the raw values name, unless it came along already."""
    named = {key: _get(values, *key.split(".")) for key in ("algorithm.name", "data.partition.name", "model.family")}
    named |= {f"{key}.name": name for key in FOLDERS if isinstance(name := _get(values, *key.split(".")), str)}
    lists = {key: _get(values, *key.split(".")) for key in ("evaluation.metrics", "tracking")}
    named |= {f"{k}.{i}": n for k, names in lists.items() if isinstance(names, (list, tuple)) for i, n in enumerate(names)}
    given = values.get("plugins") or {}
    if not isinstance(given, Mapping):
        found["plugins"] = f"plugins: expected none, got {given!r}; drop it, it is filled in by itself"
    plugins = dict(given) if isinstance(given, Mapping) else {}
    for key, name in named.items():
        if isinstance(name, str) and folder.is_file(name) and name not in plugins:
            with _collected(found):
                plugins[name] = folder.read_source(name, key)
    return plugins


def _get(value: Any, *path: str) -> Any:
    """What is at a path of mappings or values, or None."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def _build(key: str, given: Any, default: dict[str, Any], sources: Mapping[str, str], found: dict[str, str]) -> Any:
    """The value of a class from a folder: `name` picks the file, the other keys are its fields."""
    if isinstance(given, (Algorithm, Partition)):
        return given
    raw = {"name": given} if isinstance(given, str) else {} if given is None else given
    with _collected(found):
        if not isinstance(raw, Mapping):
            raise expected(key, "a section with a name", given, f"write `{key}: {{name: {default['name']}}}`")
        raw = raw if "name" in raw else {**default, **raw}
        name = raw["name"]
        if not isinstance(name, str):
            raise expected(f"{key}.name", "a name or a path ending in .py", name, "see `flexray list`")
        cls = folder.load(FOLDERS[key], name, f"{key}.name", sources)
        return _filled(cls, {k: v for k, v in raw.items() if k != "name"}, key, found)
    return _build(key, default, default, {}, {})


def _filled(cls: type, values: Mapping[str, Any], key: str, found: dict[str, str]) -> Any:
    """A class from a folder with these fields."""
    schema, wrong = Schema(Experiment, {key: cls}), {}
    try:
        made = TypeAdapter(cls).validate_python(tidied(values, schema, key, wrong))
        if not wrong:
            return made
    except ValidationError as e:
        wrong = lines(e.errors(), schema, key) | wrong
    raise ConfigError(*wrong.values())


@contextmanager
def _collected(found: dict[str, str]) -> Iterator[None]:
    """Problems are put with the others, by their dotted key, unless that has one already."""
    try:
        yield
    except ConfigError as e:
        for problem in e.problems:
            found.setdefault(problem.partition(": ")[0], problem)


def _named(value: Any) -> Any:
    """Plain values all the way down; values from folders carry their name."""
    if isinstance(value, BaseModel):
        return {k: _named(getattr(value, k)) for k in type(value).model_fields}
    if is_dataclass(value):
        name = {"name": value.name} if isinstance(value, (Algorithm, Partition)) else {}
        return name | {f.name: _named(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {k: _named(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_named(v) for v in value]
    return str(value) if isinstance(value, Path) else value
