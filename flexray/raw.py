"""Raw config values: a YAML file, and overrides laid over it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from flexray.errors import ConfigError, did_you_mean
from flexray.local_files import contents

NAMED = ("algorithm", "data.partition")
"""Sections that may be written as their name alone."""
MOST = 100_000
"""Values of a file, each counted wherever an alias puts it."""
LARGEST = 2 << 20
"""Bytes of a file: a second or so for each 100,000."""
DEEPEST = 50
"""Sections and lists within each other."""


class _Unfit(Exception):
    """YAML, but nothing to read a config from: why."""


class _Loader(yaml.SafeLoader):
    """YAML whose only truth values are true and false (`off` and `no` are text), without dates, and no key given twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (the name is PyYAML's)
        first: [r for r in found if not r[0].endswith("timestamp") and (first in "tTfF" or not r[0].endswith("bool"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key in (key for key, _ in node.value if isinstance(key.value, str)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST:  # a merge of merges of merges
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST:,} keys by `<<`", node.start_mark)


def read(path: Path | None, sets: tuple[str, ...] = ()) -> dict[str, Any]:
    """A YAML file's values (none: no values), with `dotted.key=value` overrides, whose values are YAML too."""
    values = read_yaml(path) if path else {}
    for text in sets:
        override(values, text)
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        values = _parse(contents(path, LARGEST).decode("utf-8"))
    except OSError as e:
        raise ConfigError(f"config: expected a readable file, got {str(path)!r} ({e.strerror}); {_near(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, _Unfit) as e:
        raise ConfigError(f"config: expected YAML, got something else in {str(path)!r}: {_reason(e)}; mend the file") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"config: expected keys and values in {str(path)!r}, got {type(values).__name__}; write `rounds: 10`")
    return {str(key): value for key, value in (values or {}).items()}


def override(values: dict[str, Any], text: str) -> None:
    """Lay one `dotted.key=value` over the values, in place."""
    dotted, equals, value = text.partition("=")
    if not equals or not all(dotted.strip().split(".")) or not dotted.isprintable():
        raise ConfigError(f"--set: expected dotted.key=value, got {text!r}; write for example --set train.lr=0.001")
    *parents, last = dotted.strip().split(".")
    for i in range(len(parents)):
        values = _below(values, parents[: i + 1], dotted)
    try:
        values[last] = _parse(value)
    except (yaml.YAMLError, _Unfit) as e:
        raise ConfigError(f"{dotted}: expected a YAML value, got {value!r} ({_reason(e)}); quote it") from None


def _below(values: dict[str, Any], path: list[str], dotted: str) -> dict[str, Any]:
    """The section at the end of the path, made if it is not there."""
    section = values.get(path[-1])
    if isinstance(section, str) and ".".join(path) in NAMED:
        section = {"name": section}
    if not isinstance(section, dict) and section is not None:
        at = ".".join(path)
        raise ConfigError(f"{dotted}: expected a section at {at!r}, got {section!r}; drop one of the two")
    values[path[-1]] = section or {}
    return values[path[-1]]


def _parse(text: str) -> Any:
    try:
        values = yaml.load(text, _Loader)
        _size(values, {}, 0)
    except RecursionError:
        raise _Unfit("too deep") from None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as e:  # as of a date that is none
        raise _Unfit(str(e)) from None
    return values


def _size(value: Any, known: dict[int, int], depth: int) -> int:
    """How many values there are in all. known: of lists and sections, by identity; 0 where it is being counted."""
    if not isinstance(value, (dict, list, tuple, set)):
        str(value).encode()  # half a surrogate pair is no text
        return 1
    if known.get(id(value)) == 0:
        raise _Unfit("an alias that stands within what it names")
    if depth > DEEPEST:
        raise _Unfit(f"more than {DEEPEST} sections and lists within each other")
    if id(value) not in known:
        known[id(value)] = 0
        inner = (*value, *value.values()) if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(v, known, depth + 1) for v in inner)
    if known[id(value)] > MOST:
        raise _Unfit(f"aliases that stand for more than {MOST:,} values")
    return known[id(value)]


def _reason(error: Exception) -> str:
    """What is wrong with a file, and where: lines count from 1."""
    mark = getattr(error, "problem_mark", None)
    return f"{getattr(error, 'problem', error)} in line {mark.line + 1}" if mark else str(error).replace("\n  ", " ")


def _near(path: Path) -> str:
    """The YAML files beside the one that is not there."""
    names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    return did_you_mean(path.name, names) if names else "check the path"
