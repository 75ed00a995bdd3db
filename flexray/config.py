"""The experiment: one frozen value that says everything about a run, read from YAML and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from flexray import folder
from flexray.algorithm import Algorithm
from flexray.data.options import Data
from flexray.data.partition import Partition
from flexray.errors import ConfigError, did_you_mean
from flexray.models.options import Model
from flexray.parts import problems

POSITIVE = Field(gt=0)


class Section(BaseModel):
    """A group of keys: frozen, and closed to unknown ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Train(Section):
    """A client's local training in one round. The optimizer starts afresh each round.

    lr falls to final_lr by a cosine over rounds and is constant within one; private parts train at private_lr (same
    course) where that is set. clip bounds each client's own gradient norm.
    """

    steps: int = Field(10, gt=0)
    batch: int = Field(8, gt=0)
    lr: float = Field(2e-3, gt=0)
    final_lr: float = Field(2e-4, ge=0)
    private_lr: float | None = Field(None, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(1.0, gt=0)


class Evaluation(Section):
    """When, whom and by what to score, on test rows: every n rounds the clients named, and all of them at the end.

    A client is scored after aggregation and before its local steps of the next round.
    """

    every: int = Field(5, gt=0)
    clients: Literal["all", "cohort"] | int = "all"
    metrics: tuple[str, ...] = ("loss", "exact_match")
    batch: int = Field(16, gt=0)


class Resources(Section):
    """What a client actor may use. gpu_per_client may be a fraction; unset, a GPU is used where there is one.

    backend: `ray`, or `inline` for one process without Ray (debugging). address: `local` starts Ray here, `auto` or
    host:port joins a running cluster. threads: of torch in each actor.
    """

    cpu_per_client: float = Field(1.0, gt=0)
    gpu_per_client: float | None = Field(None, ge=0)
    threads: int = Field(1, gt=0)
    backend: Literal["ray", "inline"] = "ray"
    address: str = "local"


class Storage(Section):
    """cache: converted models and tokenised data, one per node. private: where clients' private state rests; unset, in
    the run folder. On several nodes it must be a folder that all of them share."""

    cache: Path = Path("~/.cache/flexray")
    private: Path | None = None


class Experiment(Section):
    """One run. Every field has a default; `Experiment()` is the embedded demonstration."""

    seed: int = Field(0, ge=0)
    rounds: int = Field(10, gt=0)
    clients: int | None = Field(8, gt=0)
    cohort: int | float | None = None
    algorithm: Algorithm
    model: Model = Model()
    data: Data
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()
    storage: Storage = Storage()
    placement: Literal["auto", "one_per_client", "pooled"] = "auto"
    seats: Literal["auto"] | int = "auto"
    plugins: dict[str, str] = {}
    """Source text of the user's own files by the path that names them; filled in on loading, so that it travels along."""

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise as_config_error(e, type(self)) from None

    @model_validator(mode="before")
    @classmethod
    def _open_folders(cls, values: Any) -> Any:
        """Names of methods and partitions become values of the class in their file."""
        values = {**values, "plugins": _read_plugins(values)}
        algorithm = values.get("algorithm", {})
        values["algorithm"] = _build("algorithms", algorithm, {"name": "flex"}, "algorithm", values["plugins"])
        data = values.get("data", {})
        if isinstance(data, Mapping):
            given = data.get("partition") or {"column": "client"}
            partition = _build("data/partitions", given, {"name": "column"}, "data.partition", values["plugins"])
            values["data"] = {**data, "partition": partition}
        return values

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        found = [f"algorithm.{p}" for p in (*self.algorithm.check(), *problems(self.algorithm.parts))]
        found += combinations(self)
        for name in self.evaluation.metrics:
            if not folder.is_file(name) and name not in (known := folder.listing("metrics")):
                found.append(f"evaluation.metrics: expected known metrics, got {name!r}; {did_you_mean(name, known)}")
        if found:
            raise ConfigError(*found)
        return self

    def spec(self) -> dict[str, Any]:
        """The experiment as plain YAML values; `Experiment(**spec)` gives it back."""
        return _named(self)


def load(path: Path | None = None, sets: tuple[str, ...] = ()) -> Experiment:
    """From a YAML file (none: the defaults) and overrides `dotted.key=value`, whose values are YAML too."""
    values = read_yaml(path) if path else {}
    for text in sets:
        _override(values, text)
    return Experiment(**values)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        near = (
            did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else "check the path"
        )
        raise ConfigError(f"config: expected a readable file, got {str(path)!r} ({e.strerror}); {near}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        where = " ".join(str(e).split())
        raise ConfigError(f"config: expected YAML, got something else in {str(path)!r}: {where}; mend the file") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"config: expected keys and values in {str(path)!r}, got {type(values).__name__}; write `rounds: 10`")
    return values or {}


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set: expected dotted.key=value, got {text!r}; write for example --set train.lr=0.001")
    *parents, last = key.split(".")
    for i, name in enumerate(parents):
        if not isinstance(values.setdefault(name, {}), dict):
            got = values[name]
            raise ConfigError(f"{key}: expected a section at {'.'.join(parents[: i + 1])!r}, got {got!r}; drop one of the two")
        values = values[name]
    try:
        parsed = yaml.safe_load(value) if value else None
    except yaml.YAMLError:
        raise ConfigError(f"{key}: expected a YAML value, got {value!r}; quote it") from None
    values[last] = _number(parsed)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; people who write it mean a number."""
    if isinstance(value, str):
        try:
            return float(value) if any(c.isdigit() for c in value) else value
        except ValueError:
            return value
    return value


def _read_plugins(values: Mapping[str, Any]) -> dict[str, str]:
    """The source of every file that the raw values name, unless it came along already."""
    named = {
        "algorithm.name": _get(values, "algorithm", "name"),
        "data.partition.name": _get(values, "data", "partition", "name"),
        "model.family": _get(values, "model", "family"),
    }
    metrics = _get(values, "evaluation", "metrics")
    named |= {f"evaluation.metrics.{i}": m for i, m in enumerate(metrics if isinstance(metrics, (list, tuple)) else ())}
    plugins = dict(values.get("plugins") or {})
    for key, name in named.items():
        if isinstance(name, str) and folder.is_file(name) and name not in plugins:
            plugins[name] = folder.read_source(name, key)
    return plugins


def _get(value: Any, *path: str) -> Any:
    """What is at a path of mappings or values, or None."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def _build(kind: str, given: Any, default: dict[str, Any], key: str, sources: Mapping[str, str]) -> Any:
    """The value of a class from a folder: `name` picks the file, the other keys are its fields."""
    if isinstance(given, (Algorithm, Partition)):
        return given
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{key}: expected a section with a name, got {given!r}; write `{key}: {{name: {default['name']}}}`")
    given = {**default, **given}
    cls = folder.load(kind, str(given.pop("name")), f"{key}.name", sources)
    try:
        return TypeAdapter(cls).validate_python({k: _number(v) for k, v in given.items()})
    except ValidationError as e:
        raise as_config_error(e, cls, (key,)) from None


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


def combinations(x: Experiment) -> list[str]:
    """Settings that contradict each other, or that would be ignored."""
    found = []
    if isinstance(x.cohort, float) and not 0 < x.cohort <= 1:
        found.append(f"cohort: expected a share in (0, 1] or a number of clients, got {x.cohort}; leave it out for all")
    if isinstance(x.cohort, int) and not 1 <= x.cohort <= (x.clients or x.cohort):
        found.append(f"cohort: expected 1 to {x.clients} (clients), got {x.cohort}; lower it or raise clients")
    if isinstance(x.seats, int) and x.seats < 1:
        found.append(f"seats: expected auto or at least 1, got {x.seats}; use 1 for one client per forward")
    if isinstance(x.seats, int) and x.seats > 1 and x.placement == "one_per_client":
        found.append(f"seats: expected 1 with `placement: one_per_client`, got {x.seats}; set placement to pooled")
    if x.train.schedule == "constant" and "final_lr" in x.train.model_fields_set and x.train.final_lr != x.train.lr:
        found.append(f"train.final_lr: expected none with `train.schedule: constant`, got {x.train.final_lr}; drop it")
    if x.train.schedule == "cosine" and x.train.final_lr > x.train.lr:
        found.append(
            f"train.final_lr: expected at most train.lr ({x.train.lr}), got {x.train.final_lr}; lower it or raise train.lr"
        )
    if x.train.private_lr is not None and not x.algorithm.private:
        found.append(
            f"train.private_lr: expected none with {x.algorithm.name}, which has no private part, got {x.train.private_lr}; drop it"
        )
    if isinstance(x.evaluation.clients, int) and x.evaluation.clients < 1:
        found.append(f"evaluation.clients: expected all, cohort or at least 1, got {x.evaluation.clients}; use all")
    if x.resources.backend == "inline" and x.resources.address != "local":
        found.append(
            f"resources.address: expected none with `resources.backend: inline`, got {x.resources.address!r}; drop one"
        )
    return found


def as_config_error(error: ValidationError, cls: type, prefix: tuple[str, ...] = ()) -> ConfigError:
    """pydantic's findings in the house's form, one line each."""
    lines = []
    for e in error.errors():
        cause = (e.get("ctx") or {}).get("error")
        if isinstance(cause, ConfigError):
            lines += cause.problems
            continue
        loc = [str(part) for part in e["loc"] if not str(part).startswith(("literal[", "function-", "constrained-"))]
        key = ".".join((*prefix, *loc)) or "config"
        if e["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(f"{key}: expected a known key, got an unknown one; {did_you_mean(loc[-1], _fields(cls, loc[:-1]))}")
        else:
            wanted = e["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            lines.append(f"{key}: expected {wanted}, got {e['input']!r}; see `flexray list` or the config reference")
    return ConfigError(*dict.fromkeys(lines))


def _fields(cls: Any, path: list[str]) -> list[str]:
    """Names of the keys at a path below a section's class."""
    for name in path:
        cls = _types(cls).get(name)
    return list(_types(cls))


def _types(cls: Any) -> dict[str, Any]:
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return {k: f.annotation for k, f in cls.model_fields.items()}
    return {f.name: get_type_hints(cls)[f.name] for f in fields(cls)} if is_dataclass(cls) else {}
