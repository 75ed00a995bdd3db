"""Files and folders of this machine that a config names, named so that they are found from anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

FILES = {
    "data.path": "builtin",
    "data.partition.path": "",
    "evaluation.probe": "",
    "model.path": "tiny",
    "system.availability": "",
    "system.profiles": "",
}
"""Keys of files that are there already, and what is never one. A name that no file has may be a hub id."""
PLACES = ("storage.cache", "storage.checkpoint", "storage.key", "storage.private")
"""Keys of files and folders that may be made yet."""


def absolute(values: Mapping[Any, Any], at: str = "") -> dict[Any, Any]:
    """Raw values, sections and dotted keys mixed, with absolute paths. Files of the user's own code stay as they are named: their text
    travels along."""
    keyed = ((name, f"{at}.{name}".lstrip("."), value) for name, value in values.items())
    return {name: absolute(v, key) if isinstance(v, Mapping) else absolute_at(key, v) for name, key, v in keyed}


def absolute_at(key: str, value: Any) -> Any:
    """What stands at a dotted key, as an absolute path if it is a path: no URI, and nothing of somebody's home (`~`)."""
    if not isinstance(value, str) or not value.strip() or value.startswith("~") or "://" in value or "\0" in value:
        return value
    named = key in PLACES or (key in FILES and value != FILES[key] and os.path.exists(value))
    return os.path.abspath(value) if named else value
