"""Waiting for the disk."""

from __future__ import annotations

import os
from pathlib import Path


def rest(path: Path | str) -> None:
    """Returns when a file, or a folder's list of files, is on the disk: then a machine may lose its power."""
    at = os.open(path, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)
