"""The config's keys for people and for editors, read off its classes: a page of Markdown, and a JSON schema."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from flexray import folder
from flexray.config import Experiment
from flexray.schema import ABSENT, FOLDERS, HIDDEN, LISTS, Key, keys_of

WORDS = {bool: "yes or no", int: "whole number", float: "number", str: "text", Path: "path", NoneType: "null", Any: "anything"}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", NoneType: "null"}
BOUNDS = {"ge": ("≥", "minimum"), "gt": (">", "exclusiveMinimum"), "le": ("≤", "maximum"), "lt": ("<", "exclusiveMaximum")}
DEFAULTS = {"algorithm": "flex", "data.partition": "column"}
"""What is taken where a section has no name."""
INTRO = """# Configuration

Every key of a config, with what it takes and its default. Made by `flexray schema --markdown` from the code; do not edit.

A config is a YAML file with any of these keys; whatever is left out has its default. Any key can be set on the command line by its dotted
name: `--set train.lr=0.001`. Unknown keys and values that make no sense are refused with the key, what was expected, what came, and the
mend. For editors there is a JSON schema: `flexray schema > flexray.schema.json`, and as the first line of a config
`# yaml-language-server: $schema=flexray.schema.json`.
"""


def markdown(more: Mapping[str, type]) -> str:
    """The page; more: sections that other commands know at the top, such as `sweep`."""
    others = (line for name, cls in more.items() for line in _section(name, cls))
    return "\n".join([INTRO, *_section("", Experiment), *others, *_named()]).rstrip() + "\n"


def json_schema(more: Mapping[str, type]) -> dict[str, Any]:
    """The same for editors."""
    found = _object(Experiment)
    found["properties"] |= {name: _object(cls, name) for name, cls in more.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "flexray config", **found}


def _section(path: str, cls: type, level: int = 2) -> Iterator[str]:
    """A heading, what the class says, a table of its own keys; then the sections in it."""
    keys = {name: key for name, key in keys_of(cls).items() if name not in HIDDEN}
    inner = {name: key for name, key in keys.items() if _is_section(key) or f"{path}.{name}".lstrip(".") in FOLDERS}
    yield f"{'#' * level} {f'`{path}`' if path else 'At the top'}\n"
    yield f"{_said(cls)}\n"
    yield from _table({name: key for name, key in keys.items() if name not in inner})
    for name, key in inner.items():
        below = f"{path}.{name}".lstrip(".")
        if below in FOLDERS:
            yield f"## `{below}`\n"
            yield f"A name (`{below}: {DEFAULTS[below]}` is the default), or a section with `name` and that one's settings: see below.\n"
        else:
            yield from _section(below, key.type, level)


def _named() -> Iterator[str]:
    """The settings that a name brings."""
    for section, kind in FOLDERS.items():
        for name, line in folder.listing(kind).items():
            cls = folder.load(kind, name, section)
            yield f"## `{section}.name: {name}`\n"
            yield f"{line}\n"
            yield f"{_said(cls)}\n"
            every = {k: v for k, v in _flat(cls) if not k.endswith("name")}
            yield from _table(every)


def _flat(cls: Any, path: str = "") -> Iterator[tuple[str, Key]]:
    for name, key in keys_of(cls).items():
        below = f"{path}.{name}".lstrip(".")
        if _is_section(key):
            yield from _flat(key.type, below)
        else:
            yield below, key


def _table(keys: Mapping[str, Key]) -> Iterator[str]:
    if keys:
        yield "| key | takes | default |\n|---|---|---|"
        for name, key in keys.items():
            yield f"| `{name}` | {_takes(key)} | {_default(key)} |"
        yield ""


def _takes(key: Key) -> str:
    bounds = [f"{BOUNDS[b][0]} {value:g}" for b, value in _bounds(key)]
    return " or ".join(dict.fromkeys(_words(t) for t in key.choices)) + (f", {', '.join(bounds)}" if bounds else "")


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) in LISTS:
        inner = list(dict.fromkeys(_words(t) for t in get_args(hint) if t is not Ellipsis))
        return f"a list of {' or '.join(inner)}"
    if get_origin(hint) is dict:
        return f"a mapping from {_words(get_args(hint)[0])} to {_words(get_args(hint)[1])}"
    return WORDS.get(hint, f"`{getattr(hint, '__name__', hint)}`")


def _default(key: Key) -> str:
    if key.default is ABSENT:
        return "must be given"
    value = key.default
    plain = list(value) if isinstance(value, (tuple, list)) else str(value) if isinstance(value, Path) else value
    return f"`{json.dumps(plain, ensure_ascii=False)}`"


def _said(cls: type) -> str:
    """A class's docstring as paragraphs; without one, nothing."""
    return inspect.cleandoc(cls.__doc__ or "") if "__doc__" in vars(cls) else ""


def _is_section(key: Key) -> bool:
    return isinstance(key.type, type) and (hasattr(key.type, "model_fields") or is_dataclass(key.type))


def _bounds(key: Key) -> Iterator[tuple[str, float]]:
    for bound in key.bounds:
        yield from ((name, getattr(bound, name)) for name in BOUNDS if getattr(bound, name, None) is not None)


def _object(cls: type, path: str = "", name: str = "") -> dict[str, Any]:
    """A section. name: what picks it, if it is one of a folder."""
    properties = {"name": {"const": name}} if name else {}
    for key_name, key in keys_of(cls).items():
        below = f"{path}.{key_name}".lstrip(".")
        properties[key_name] = _of_folder(below) if below in FOLDERS else _value(key, below)
    return {"type": "object", "description": _said(cls), "properties": properties, "additionalProperties": False}


def _value(key: Key, path: str) -> dict[str, Any]:
    if _is_section(key):
        return _object(key.type, path)
    found = [_plain(t) for t in key.choices]
    for of in found:
        if of.get("type") in ("integer", "number"):
            of |= {BOUNDS[name][1]: value for name, value in _bounds(key)}
    whole = found[0] if len(found) == 1 else {"anyOf": found}
    return whole if key.default is ABSENT else {**whole, "default": json.loads(_default(key).strip("`"))}


def _plain(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) in LISTS:
        inner = [_plain(t) for t in get_args(hint) if t is not Ellipsis]
        return {"type": "array", "items": inner[0] if len(inner) == 1 else {"anyOf": inner}}
    if get_origin(hint) is dict:
        return _mapping(_plain(get_args(hint)[1]))
    return {"type": TYPES[hint]} if hint in TYPES else {}


def _mapping(of: dict[str, Any]) -> dict[str, Any]:
    """Where sections are named freely, a name alone stands for one, and a list of names for several."""
    if of.get("type") != "object":
        return {"type": "object", "additionalProperties": of}
    name = {"type": "string"}
    return {"anyOf": [{"type": "object", "additionalProperties": {"anyOf": [name, of]}}, {"type": "array", "items": name}]}


def _of_folder(section: str) -> dict[str, Any]:
    """A name, a file of the user's own, or a section with its settings."""
    known = folder.listing(FOLDERS[section])
    own = {"type": "string", "pattern": r"\.py$"}
    mine = {"type": "object", "properties": {"name": own}, "required": ["name"]}
    made = {name: _object(folder.load(FOLDERS[section], name, section), section, name) for name in known}
    sections = [made[name] | {"required": ["name"]} for name in known]
    return {"anyOf": [{"enum": list(known)}, own, mine, made[DEFAULTS[section]], *sections]}
