"""Files and folders of this machine that a config names, named so that they are found from anywhere."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
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

LARGEST = 64 << 20
"""Bytes of a file that is read as a whole, and is no data."""


def contents(path: Path | str, most: int = LARGEST) -> bytes:
    """A file's bytes. Raises OSError for more than `most`, and for pipes and devices, which may never end: but what a shell opened for
    us (`<(…)`, /dev/stdin) is read."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(kind) and not (stat.S_ISFIFO(kind) and str(path).startswith(("/dev/", "/proc/"))):
            raise OSError(errno.EINVAL, "a pipe or a device")
        os.set_blocking(file.fileno(), True)
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"more than {most >> 20} MB")
    return found


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
