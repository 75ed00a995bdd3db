"""Laying what a method changes over the config that all methods share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flexray.errors import ConfigError
from flexray.raw import NAMED


def sections(given: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Sections and dotted keys, mixed, as sections. `at` is the key to blame."""
    found: dict[str, Any] = {}
    for dotted, value in given.items():
        for part in reversed(dotted.split(".")):
            value = {part: value}
        if twice := {*leaves(found)} & {*leaves(value)}:
            raise ConfigError(f"{at}.{min(twice)}: expected the key once, got it twice; drop one of them")
        found = overlaid(found, value)
    return found


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """`above` over `below`, section by section; a section of another name replaces the one below."""
    both = dict(below)
    for key, value in above.items():
        at = f"{path}.{key}".lstrip(".")
        old, new = _named(both.get(key), at), _named(value, at)
        over = isinstance(old, Mapping) and isinstance(new, Mapping) and new.get("name", old.get("name")) == old.get("name")
        both[key] = overlaid(old, new, at) if over else new
    return both


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted keys that are set."""
    for key, value in values.items():
        at = f"{path}.{key}".lstrip(".")
        value = _named(value, at)
        yield from leaves(value, at) if isinstance(value, Mapping) and value else [at]


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys at which two plain values differ, and both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from differences(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif a != b:
        yield path, a, b


def _named(value: Any, path: str) -> Any:
    """A section that is written as its name alone, written out."""
    return {"name": value} if path in NAMED and isinstance(value, str) else value
