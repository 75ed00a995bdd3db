"""The config's JSON schema, for editors: what may stand where, with every key's meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from flexray import folder
from flexray.reference import roots, told
from flexray.schema import ABSENT, FOLDERS, LISTS, Key, keys_of

Json = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"
SCALARS: dict[Any, Json] = {
    bool: {"type": "boolean"}, int: {"type": "integer"}, float: {"type": "number"}, str: {"type": "string", "minLength": 1},
    Path: {"type": "string", "minLength": 1}, type(None): {"type": "null"}, Any: {},
}  # fmt: skip
OWN_FILE: Json = {"type": "string", "pattern": r"\.py$", "description": "a file of your own"}
LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
FREE: dict[str, Json] = {
    "compare.methods": {
        "anyOf": [
            {"type": "array", "items": {"type": "string"}},
            {"type": "object", "additionalProperties": {"type": ["string", "object", "null"]}},
        ]
    },
    "sweep.over": {"type": "object", "minProperties": 1},
}
"""Keys whose form is wider than their type: they are read before they are checked."""


def config() -> Json:
    """Of an experiment, with the sections for comparisons and sweeps."""
    made = _section(roots.Experiment, "")
    made["properties"] |= {name: _section(cls, name) | {"description": told.first(cls)} for name, cls in roots.EXTRA.items()}
    return {"$schema": DIALECT, "title": "flexray config", "description": told.first(roots.Experiment), **made}


def recipe() -> Json:
    """Of what `flexray pretrain` takes."""
    return {
        "$schema": DIALECT,
        "title": "flexray recipe",
        "description": told.first(roots.Recipe),
        **_section(roots.Recipe, ""),
    }


def _section(cls: type, path: str) -> Json:
    """A closed object; nothing at all stands for one without keys."""
    keys, said = keys_of(cls), told.fields(cls)
    properties = {name: _key(key, f"{path}.{name}".lstrip("."), said.get(name, "")) for name, key in keys.items()}
    required = [
        name
        for name, key in keys.items()
        if key.default is ABSENT and f"{path}.{name}".lstrip(".") not in ("algorithm", "data", *FOLDERS)
    ]
    made: Json = {
        "type": "object" if required or not path else ["object", "null"],
        "additionalProperties": False,
        "properties": properties,
    }
    return made | ({"required": required} if required else {})


def _key(key: Key, path: str, about: str) -> Json:
    made = _chosen(path) if path in FOLDERS else FREE.get(path) or _value(key, path)
    default = {} if key.default is ABSENT or keys_of(type(key.default)) else {"default": _plain(key.default)}
    return {**({"description": about} if about else {}), **made, **default}


def _value(key: Key, path: str) -> Json:
    kinds = [_kind(kind, key.bounds, path) for kind in key.choices if not (kind is int and float in key.choices)]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _kind(kind: Any, bounds: Iterable[Any], path: str) -> Json:
    inner = get_args(kind)
    if path in roots.LISTED and kind is str:
        return _name(path)
    if get_origin(kind) is Literal:
        return {"enum": list(inner)}
    if get_origin(kind) in LISTS:
        return {"type": "array", "items": _kind_of_items(inner[0], path)}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _value(Key(inner[1]), "")}
    if keys_of(kind):
        return _section(kind, path)
    limits = {LIMITS[name]: getattr(b, name) for b in bounds for name in LIMITS if hasattr(b, name)}
    return SCALARS[kind] | (limits if kind in (int, float) else {})


def _kind_of_items(kind: Any, path: str) -> Json:
    return _value(Key(kind), path)


def _name(path: str) -> Json:
    """A name of a folder's files, or a file of one's own."""
    names = [{"const": name, "description": line} for name, line in folder.listing(roots.LISTED[path]).items()]
    auto = [{"const": "auto"}] if path == "model.family" else []
    return {"anyOf": [*auto, *names, OWN_FILE]}


def _chosen(path: str) -> Json:
    """A name alone, or a section whose keys depend on its name."""
    lines = folder.listing(FOLDERS[path])
    found = [_named(path, name, cls) for name, cls in roots.named(path)]
    own = {"type": "object", "properties": {"name": OWN_FILE}, "required": ["name"]}
    names = [{"const": name, "description": line} for name, line in lines.items()]
    return {"oneOf": [*names, OWN_FILE, {"type": "null"}, *found, own]}


def _named(path: str, name: str, cls: type) -> Json:
    """The section of one name; that of the default may go without it."""
    made = _section(cls, path)
    required = made.pop("required", [])
    made |= {"type": "object", "title": name, "description": told.first(cls)}
    made["properties"] = {"name": {"const": name}, **made["properties"]}
    if name != roots.DEFAULTS[path]:
        return made | {"required": ["name", *required]}
    return made | ({"anyOf": [{"required": ["name", *required]}, {"not": {"required": ["name"]}}]} if required else {})


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return list(map(_plain, value))
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    return str(value) if isinstance(value, Path) else value
