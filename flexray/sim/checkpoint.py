"""Checkpoints: a second copy of all that a run needs to go on, elsewhere, made while the next rounds are played.

At the place, `files/` has contents by their digest, and `after-000012.json` says which of them make the run folder as it was after that
round. This list is written last: what it names is complete. The two newest are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from flexray.errors import RunError, expected
from flexray.sim.events import Checkpointed
from flexray.sim.place import Place, digest_of
from flexray.sim.private.store import PrivateStore

KEPT = 2
LIST = "after-"
LINKS = ".checkpoint"
"""Where the files wait that are to be copied: links to them, which stay as they are, whatever the run does next."""
PRIVATE = "private"
ALONE = ("*.yaml", "*.json", "*.safetensors", "*.parquet")
PARTS = ("rounds", "clients", "evaluations", "rows", "bytes", "inside")


NO_LIST = (ValueError, KeyError, TypeError, AttributeError)
"""What reading something else than a list raises."""


class _Copy(NamedTuple):
    """Of a file of the run: its contents at the place."""

    digest: str
    size: int


class _Waiting(NamedTuple):
    """A file to be copied: its name in the run, and where it waits."""

    name: str
    link: Path


@dataclass
class Checkpoints:
    """Of one run. every: after so many rounds; while one is still being made, no other is begun."""

    run: Path
    private: PrivateStore
    place: Place
    every: int
    _copies: dict[str, _Copy] = field(default_factory=dict)
    _lists: dict[int, set[str]] = field(default_factory=dict)
    _stamps: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _going: Future[Checkpointed] | None = None

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def begin(self, round: int) -> None:
        """Before the first round is played, when the last one finished is `round` (−1: none): what is of later ones, or unlisted, goes."""
        for later in self.place.names():
            if later.startswith(LIST) and round_of(later) > round:
                self.place.delete(later)
        for number, copies in _listed(self.place):
            self._lists[number] = {copy.digest for copy in copies.values()}
            self._copies = copies
        for name in set(self.place.names("files")) - self._there:
            self.place.delete(f"files/{name}")
        self._forget_links()

    def after(self, round: int, known: Mapping[int, int]) -> Iterator[Checkpointed]:
        """A round is finished; `known`: the rounds after which clients' private state was last written. Tells what became of the last."""
        yield from self._heard()
        if (round + 1) % self.every == 0 and self._going is None:
            self._start(round, known)

    def end(self, round: int, known: Mapping[int, int]) -> Iterator[Checkpointed]:
        """The run is over: waits for one more, of all that it left. Raises RunError if that could not be made."""
        if self._going is not None:
            self._going.exception()
        yield from self._heard()
        self._start(round, known)
        assert self._going is not None
        self._going.exception()
        for last in self._heard():
            yield last
            if last.error:
                raise RunError(f"the run is finished, but not its last checkpoint: {last.error}")

    def close(self) -> None:
        """What was begun is ended."""
        self._thread.shutdown(wait=True)
        self._forget_links()

    @property
    def _there(self) -> set[str]:
        return set().union(*self._lists.values())

    def _heard(self) -> Iterator[Checkpointed]:
        if self._going is not None and self._going.done():
            done, self._going = self._going.result(), None
            yield done

    def _start(self, round: int, known: Mapping[int, int]) -> None:
        waiting, names = [], set[str]()
        for name, path, links in self._files(known):
            names.add(name)
            if name not in self._copies or self._changed(name, path):
                links.mkdir(mode=0o700, exist_ok=True)
                waiting.append(_Waiting(name, _linked(path, links / f"{len(waiting)}")))
        self._going = self._thread.submit(self._made, round, names, waiting)

    def _files(self, known: Mapping[int, int]) -> Iterator[tuple[str, Path, Path]]:
        """All that belongs to the run now: name, path, and where a link to it may be."""
        links = self.run / LINKS
        for pattern in ALONE:
            yield from ((path.name, path, links) for path in self.run.glob(pattern))
        for folder in PARTS:
            yield from ((f"{folder}/{path.name}", path, links) for path in (self.run / folder).glob("*.parquet"))
        for client, round in known.items():
            path = self.private.file(client, round)
            yield f"{PRIVATE}/{path.parent.name}/{path.name}", path, self.private.root / LINKS

    def _changed(self, name: str, path: Path) -> bool:
        """Whether it is another file than the one that was copied. Private state never is: its name says after which round."""
        if name.startswith(PRIVATE):
            return False
        at = path.stat()
        stamp, before = (at.st_ino, at.st_mtime_ns, at.st_size), self._stamps.get(name)
        self._stamps[name] = stamp
        return stamp != before

    def _made(self, round: int, names: set[str], waiting: list[_Waiting]) -> Checkpointed:
        """In the thread of its own."""
        started, moved = perf_counter(), 0
        try:
            before, copies = self._there, {name: copy for name, copy in self._copies.items() if name in names}
            there = set(before)
            for name, link in waiting:
                copies[name] = copy = _Copy(digest_of(link), link.stat().st_size)
                if copy.digest not in there:
                    self.place.put(f"files/{copy.digest}", link)
                    there.add(copy.digest)
                    moved += copy.size
            self.place.write(list_of(round), listed(round, copies))
            self._copies, self._lists[round] = copies, {copy.digest for copy in copies.values()}
            self._prune(before | there)
            return Checkpointed(round, perf_counter() - started, moved)
        except Exception as e:
            self._stamps.clear()
            return Checkpointed(
                round, perf_counter() - started, moved, f"{self.place.path} could not be written: {type(e).__name__}: {e}"
            )
        finally:
            self._forget_links()

    def _prune(self, before: set[str]) -> None:
        """Drops the oldest lists, and of the contents that were there before what nothing names any more."""
        for old in sorted(self._lists)[:-KEPT]:
            self.place.delete(list_of(old))
            del self._lists[old]
        for digest in before - self._there:
            self.place.delete(f"files/{digest}")

    def _forget_links(self) -> None:
        for root in (self.run, self.private.root):
            shutil.rmtree(root / LINKS, ignore_errors=True)


def place_of(where: str, run: Path) -> Place:
    """A run's place under `storage.checkpoint`: a folder of the run folder's name."""
    return Place.of(f"{where.rstrip('/')}/{run.absolute().name}", "storage.checkpoint")


def check(where: str, run: Path, resume: bool) -> None:
    """Raises ConfigError where no checkpoint can be written, or there are another run's."""
    place = place_of(where, run)
    try:
        if not resume and any(name.startswith(LIST) for name in place.names()):
            raise expected(
                "storage.checkpoint", "no checkpoints of another run there", place.path, "name another, or another --out"
            )
        place.write("probe", b"")
        place.delete("probe")
    except OSError as e:
        raise expected("storage.checkpoint", "a place that can be written to", where, str(e).splitlines()[0]) from e


def _listed(place: Place) -> Iterator[tuple[int, dict[str, _Copy]]]:
    """Rounds, and what they have, the newest last; a list that is damaged is none."""
    for name in place.names():
        if name.startswith(LIST):
            with suppress(*NO_LIST):
                yield round_of(name), {file: _Copy(*copy) for file, copy in read_list(place.read(name)).items()}


def _linked(path: Path, link: Path) -> Path:
    try:
        os.link(path, link)
    except OSError:  # a file system without them
        shutil.copy2(path, link)
    return link


def listed(round: int, files: Mapping[str, tuple[str, int]]) -> bytes:
    """A list's contents: of every file of the run folder its digest and size; and of all that a digest, too."""
    told = {"round": round, "files": files}
    return json.dumps({**told, "digest": _digest(told)}).encode()


def read_list(contents: bytes) -> dict[str, tuple[str, int]]:
    """The files of a list. Raises one of NO_LIST if it is none, or not as it was written."""
    told = json.loads(contents)
    if told.pop("digest") != _digest(told):
        raise ValueError("it was changed")
    return told["files"]


def _digest(told: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def list_of(round: int) -> str:
    """The name of the list of what there was after `round`."""
    return f"{LIST}{round:06d}.json"


def round_of(name: str) -> int:
    """The other way."""
    return int(name.removeprefix(LIST).removesuffix(".json"))
