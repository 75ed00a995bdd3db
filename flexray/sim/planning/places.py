"""Whether a folder can be made where one is asked for, before anything is."""

from __future__ import annotations

import os
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
