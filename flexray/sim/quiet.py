"""Keeps what Ray says of its own accord out of what is printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread
from typing import Any

THREADS = ("ray_listen_error_messages",)
"""Ray prints from these of its threads, whatever its log level is: that a worker died, in a paragraph. We say it in a line."""


class _Deaf:
    """A file that hears nothing from some threads."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, text: str) -> int:
        return len(text) if current_thread().name in THREADS else self._file.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def without_ray(wanted: bool = True) -> Iterator[None]:
    """Inside, standard output is without Ray's own words, as JSON and a live table must be."""
    before = sys.stdout
    if wanted:
        sys.stdout = _Deaf(before)
    try:
        yield
    finally:
        sys.stdout = before
