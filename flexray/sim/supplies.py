"""What a process needs of the cache (the backbone, the corpus, what scoring needs), brought to a node that does not have it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flexray.errors import RunError, expected
from flexray.sim.job import Job

PIECE = 16 << 20
"""Bytes that cross at a time: of a large model no more than a few of these are ever in the object store."""
Listing = list[tuple[str, int]]
"""Of an entry of the cache: its files by their paths in it ("" if it is a file itself), and their bytes."""
Bring = Callable[[str, Listing], Iterator[np.ndarray]]
"""All bytes of an entry's files in their order, in pieces: none spans two files, and each but a file's last has PIECE bytes."""
ENTRIES = ("backbone", "corpus", "kit")


def cache_of(job: Job) -> Path:
    """This node's, of which the job's is the same folder on the node where the run was planned."""
    return job.experiment.storage.cache.expanduser().absolute()


def entries(job: Job, cache: Path) -> dict[str, Path]:
    """What the job names of its cache: where it is in there."""
    found = {name: getattr(job, name) for name in ENTRIES}
    return {name: path.relative_to(cache) for name, path in found.items() if path is not None}


def here(job: Job, cache: Path, listed: Callable[[str], Listing], bring: Bring, node: str) -> Job:
    """The job as this node has it. cache: the planner's; what this node has of that neither there nor in its own is brought, once.

    Raises ConfigError, which blames `storage.cache`, where there is no place for it.
    """
    mine: dict[str, Any] = {}
    for name, entry in entries(job, cache).items():
        if not (cache / entry).exists():
            mine[name] = own = cache_of(job) / entry
            try:
                _bring(own, str(entry), listed, bring)
            except OSError as e:
                raise expected(
                    "storage.cache", f"a folder that node {node} can write to", str(own), f"{e.strerror}; mend it there"
                ) from e
    return replace(job, **mine) if mine else job


def listing(path: Path) -> Listing:
    """An entry's files."""
    if path.is_file():
        return [("", path.stat().st_size)]
    return [(str(f.relative_to(path)), f.stat().st_size) for f in sorted(path.rglob("*")) if f.is_file()]


def weight(job: Job) -> int:
    """Bytes of all that the job names, on the planner's node."""
    return sum(size for name in ENTRIES if (path := getattr(job, name)) is not None for _, size in listing(path))


def offsets(listed: Listing) -> Iterator[tuple[str, int]]:
    """Every piece's file, and where in it the piece begins."""
    for name, size in listed:
        yield from ((name, at) for at in range(0, size, PIECE))


def piece(path: Path, name: str, at: int) -> np.ndarray:
    """Of an entry's file, [bytes]."""
    return np.fromfile(path / name if name else path, np.uint8, PIECE, offset=at)


def _bring(own: Path, entry: str, listed: Callable[[str], Listing], bring: Bring) -> None:
    """Writes the entry beside its place and moves it there whole; who comes later finds it there."""
    from filelock import FileLock

    own.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{own}.lock"):
        if own.exists():
            return
        for left in own.parent.glob(f".{own.name}.*.part"):  # by a process that was killed: we hold the lock
            _remove(left)
        making = own.with_name(f".{own.name}.{os.getpid()}.part")
        try:
            _write(making, files := listed(entry), bring(entry, files))
            making.rename(own)
        finally:
            _remove(making)


def _write(making: Path, files: Listing, pieces: Iterator[np.ndarray]) -> None:
    for name, size in files:
        file = making / name if name else making
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as out:
            while out.tell() < size:
                out.write(next(pieces).data)
        if file.stat().st_size != size:
            raise RunError(
                f"{file}: expected {size:,} bytes, got {file.stat().st_size:,}; did the cache change during the run?"
            )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
