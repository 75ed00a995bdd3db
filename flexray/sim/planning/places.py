"""Whether a folder can be made where one is asked for, before anything is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexray.errors import expected


def possible(path: Path, key: str) -> Path:
    """The path. Raises ConfigError that blames `key` if no folder can be there."""
    try:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        reason = "" if there.is_dir() else f"{there} is no folder"
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            reason = f"{there} cannot be written to"
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
    if reason:
        shown = str(path) if len(str(path)) < 200 else f"{str(path)[:100]} …"
        raise expected(key, "a folder that can be written to", shown, f"name another: {reason}")
    return path


@contextmanager
def making(folder: Path, key: str) -> Iterator[None]:
    """Around what makes files in a folder: whatever the system says against it, such as that a disk is full, is told of `key`."""
    try:
        yield
    except OSError as e:
        reason = e.strerror or str(e)
        raise expected(
            key, "a folder with room for the model and the data", str(folder), f"make room, or name another: {reason}"
        ) from e
