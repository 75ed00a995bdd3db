"""What of the cache a node lacks is brought there: whole, once, and only that."""

import os
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from flexray.errors import ConfigError, RunError
from flexray.sim import supplies
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials
from flexray.sim.supplies import Listing


class Sender:
    """The node that has everything."""

    def __init__(self, cache: Path):
        self.cache, self.listed, self.sent = cache, [], 0

    def files(self, entry: str) -> Listing:
        self.listed.append(entry)
        return supplies.listing(self.cache / entry)

    def bring(self, entry: str, listed: Listing):
        for name, at in supplies.offsets(listed):
            piece = supplies.piece(self.cache / entry, name, at)
            self.sent += len(piece)
            yield piece


@pytest.fixture(scope="module")
def job(small, cache, tmp_path_factory):
    return prepare(small(), {"CPU": 1.0}, tmp_path_factory.mktemp("private"), Trials("nothing"))[0]


def elsewhere(job, own: Path):
    """The job as it arrives at a node whose cache is `own`."""
    return replace(job, spec={**job.spec, "storage": {**job.spec["storage"], "cache": str(own)}})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.suffix != ".lock"}


def away(cache: Path, tmp_path: Path, job) -> Path:
    """A copy of what the job names, under another root; as if the planner's cache were not to be seen here."""
    for entry in supplies.entries(job, cache).values():
        (tmp_path / "sender" / entry).parent.mkdir(parents=True, exist_ok=True)
        os.system(f'cp -r "{cache / entry}" "{tmp_path / "sender" / entry}"')
    return tmp_path / "sender"


def test_a_node_that_sees_everything_asks_for_nothing(job, cache):
    sender = Sender(cache)
    assert supplies.here(job, cache, sender.files, sender.bring, "n") is job and not sender.listed
    own = [cache / entry for entry in supplies.entries(job, cache).values()]
    assert supplies.weight(job) == sum(len(f.read_bytes()) for e in own for f in [e, *e.rglob("*")] if f.is_file())


@pytest.mark.parametrize("size", [1 << 10, 1 << 30])
def test_what_is_missing_is_brought_byte_for_byte_once_however_many_ask(job, cache, tmp_path, monkeypatch, size):
    monkeypatch.setattr(supplies, "PIECE", size)
    sender = Sender(away(cache, tmp_path, job))
    there = replace(job, **{name: tmp_path / "gone" / e for name, e in supplies.entries(job, cache).items()})
    there, barrier, got = elsewhere(there, tmp_path / "own"), Barrier(3), []

    def ask() -> None:
        barrier.wait()
        got.append(supplies.here(there, tmp_path / "gone", sender.files, sender.bring, "n"))

    threads = [Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "own") == contents(sender.cache) and len(got) == 3
    assert {one.backbone for one in got} == {tmp_path / "own" / job.backbone.relative_to(cache)}
    assert len(sender.listed) == len(set(sender.listed)) and sender.sent == sum(map(len, contents(sender.cache).values()))


def test_what_a_killed_process_left_is_cleared_away(job, cache, tmp_path):
    sender, gone = Sender(away(cache, tmp_path, job)), tmp_path / "gone"
    (sender.cache / "c").write_bytes(b"")
    there = replace(job, backbone=gone / job.backbone.relative_to(cache), corpus=gone / "c", kit=None)
    left = tmp_path / "own" / f".{job.backbone.name}.123.part"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"1")
    supplies.here(elsewhere(there, tmp_path / "own"), gone, sender.files, sender.bring, "n")
    assert not left.exists() and (tmp_path / "own" / "c").read_bytes() == b""


def test_no_room_for_it_blames_the_cache(job, cache, tmp_path):
    sender, gone = Sender(cache), tmp_path / "gone"
    (tmp_path / "own").write_text("no folder")
    there = elsewhere(replace(job, backbone=gone / "b", corpus=gone / "c", kit=None), tmp_path / "own")
    with pytest.raises(ConfigError, match=r"storage\.cache: expected a folder that node n can write to"):
        supplies.here(there, gone, sender.files, sender.bring, "n")


def test_a_cache_that_changes_on_the_way_is_noticed(tmp_path):
    pieces = iter([np.zeros(3, np.uint8)])
    with pytest.raises(RunError, match="expected 2 bytes, got 3; did the cache change"):
        supplies._write(tmp_path / "x", [("", 2)], pieces)
