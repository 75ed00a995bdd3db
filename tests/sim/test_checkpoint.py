"""Checkpoints: what is in them, when they are made, and that a run made again from them ends with the same bits."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from safetensors.torch import load_file

from flexray import api
from flexray.errors import ConfigError, RunError
from flexray.sim import restore
from flexray.sim.checkpoint import Checkpoints, list_of, listed
from flexray.sim.events import Checkpointed, RoundDone
from flexray.sim.place import Place
from flexray.sim.private.store import PrivateStore
from flexray.state import ClientState


class Lost(Exception):
    """What stops a run in the middle."""


def contents(run: Path) -> dict[str, bytes]:
    """What a run ends with, and what its clients own at the end."""
    private = {f"{f.parent.name}/{f.name}": f.read_bytes() for f in sorted(run.glob("private/*/after-000003*"))}
    return {"server": (run / "server.safetensors").read_bytes()} | private


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def whole(small, place, tmp_path_factory):
    """An undisturbed run of 4 rounds, with its checkpoints and events."""
    events, out = [], tmp_path_factory.mktemp("runs") / "whole"
    api.simulate(small(rounds=4, storage={"checkpoint": str(place)}), out, watch=events.append)
    return out, events


def test_a_run_that_is_lost_is_made_again_from_its_checkpoint(small, whole, tmp_path):
    place, out = tmp_path / "place", tmp_path / "lost"

    def stop(event):
        if isinstance(event, RoundDone) and event.report.round == 2:
            raise Lost

    x = small(rounds=4, storage={"checkpoint": str(place), "checkpoint_every": 2})
    with pytest.raises(Lost):
        api.simulate(x, out, watch=stop)
    again = tmp_path / "again"
    assert restore.fetch(str(place / "lost"), again) == 1  # after rounds 0 and 1; round 2 is lost with the folder
    os.rename(out, tmp_path / "gone")
    run = api.resume(again)
    assert contents(run.path) == contents(whole[0])
    clean = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in run.rounds()]
    assert clean == [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in api.load_run(whole[0]).rounds()]


def test_the_two_newest_are_kept_and_nothing_that_they_do_not_name(whole, place):
    under = place / "whole"
    lists = [json.loads(f.read_text()) for f in sorted(under.glob("after-*.json"))]
    assert [told["round"] for told in lists] == [2, 3]
    named = {digest for told in lists for digest, _ in told["files"].values()}
    assert {f.name for f in (under / "files").iterdir()} == named
    assert {"config.yaml", "server.safetensors", "summary.json", "rounds.parquet"} <= lists[-1]["files"].keys()


def test_only_the_owner_may_read_it(whole, place):
    for path in (place / "whole").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_links_are_left(whole):
    assert not list(whole[0].rglob(".checkpoint"))


def test_each_checkpoint_is_told_and_an_unchanged_file_is_not_copied_again(whole):
    told = [event for event in whole[1] if isinstance(event, Checkpointed)]
    assert told[-1].round == 3
    assert not any(event.error for event in told)
    private = sum(f.stat().st_size for f in whole[0].glob("private/*/after-000003*"))
    assert 0 < told[-1].bytes < private  # the last round's private state went with the one before


def test_a_damaged_checkpoint_is_passed_over_and_named_if_there_is_no_other(whole, place, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(place / "whole", copied)
    newest = json.loads((copied / list_of(3)).read_text())["files"]
    before = {digest for digest, _ in json.loads((copied / list_of(2)).read_text())["files"].values()}
    digest = next(d for d, size in newest.values() if d not in before and size > 100)
    contents = bytearray((copied / "files" / digest).read_bytes())
    contents[50] ^= 1
    (copied / "files" / digest).write_bytes(contents)
    assert restore.fetch(str(copied), tmp_path / "older") == 2
    (copied / list_of(2)).write_text("{")
    with pytest.raises(ConfigError, match=r"expected a whole checkpoint in .*after-000003.json \(files/.*was changed\)"):
        restore.fetch(str(copied), tmp_path / "none")
    assert not list(tmp_path.glob("*none*"))


def test_a_list_in_which_a_bit_has_flipped_is_none(whole, place, tmp_path):
    """Neither to go on from, nor to add to: the run that goes on copies all that it has."""
    copied = tmp_path / "copied"
    shutil.copytree(place / "whole", copied)
    for file in copied.glob("after-*.json"):
        file.write_text(file.read_text().replace("server", "serven"))
    with pytest.raises(ConfigError, match=r"expected a whole checkpoint in .*after-000003.json \(it was changed\)"):
        restore.fetch(str(copied), tmp_path / "none")
    assert not list(tmp_path.glob("*none*"))
    private = PrivateStore(whole[0] / "private", [])
    again = Checkpoints(whole[0], private, Place.of(str(copied), "storage.checkpoint"), 1)
    again.begin(3)
    again.close()


def test_private_state_of_another_run_is_not_written_over(small, tmp_path):
    own = small(rounds=1, storage={"private": str(tmp_path / "private")})
    run = api.simulate(own, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"storage\.private: expected a folder of this run alone"):
        api.simulate(own, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (run.path / "summary.json").unlink()
    assert api.resume(run.path).summary["rounds"] == 1


def test_a_list_cannot_write_outside_the_run_folder(whole, place, tmp_path):
    bad = tmp_path / "bad"
    (bad / "files").mkdir(parents=True)
    (bad / "files" / "x").write_bytes(b"")
    (bad / list_of(0)).write_bytes(listed(0, {"../../evil": ("x", 0)}))
    with pytest.raises(ConfigError, match="is no file of a run"):
        restore.fetch(str(bad), tmp_path / "out")


def test_wrong_places_are_refused_before_anything_is_written(small, whole, place, tmp_path):
    (tmp_path / "file").write_text("")
    for where, why in (
        (str(tmp_path / "file"), "storage.checkpoint: expected a place that can be written to"),
        ("abc://x", "got 'abc://x/run'"),
    ):
        with pytest.raises(ConfigError, match=why):
            api.simulate(small(storage={"checkpoint": where}), tmp_path / "run")
    with pytest.raises(ConfigError, match="no checkpoints of another run"):
        api.simulate(small(storage={"checkpoint": str(place)}), tmp_path / "whole")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file"]


def test_resuming_says_what_it_expects(whole, tmp_path):
    with pytest.raises(ConfigError, match="the folder of a run, or of its checkpoints"):
        api.opened(tmp_path)
    with pytest.raises(ConfigError, match="--out: expected none with --resume of a run folder"):
        api.opened(whole[0], tmp_path / "other")


def test_a_checkpoint_that_fails_is_told_and_the_run_goes_on_to_say_so(small, tmp_path):
    """The place is taken away after the first round: told, and at the end, when the results are there, an error."""
    place, events = tmp_path / "place", []

    def watch(event):
        events.append(event)
        if isinstance(event, RoundDone) and event.report.round == 0:
            shutil.rmtree(place)
            place.write_text("in the way")

    with pytest.raises(RunError, match="finished, but not its last checkpoint"):
        api.simulate(small(storage={"checkpoint": str(place)}), tmp_path / "run", watch=watch)
    assert (tmp_path / "run" / "summary.json").exists()
    assert any(isinstance(e, Checkpointed) and "/run could not be written: " in e.error for e in events)


def test_private_state_elsewhere_goes_back_there(small, tmp_path):
    x = small(storage={"checkpoint": str(tmp_path / "place"), "private": str(tmp_path / "own")})
    api.simulate(x, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"storage\.private: expected a new or empty folder"):
        restore.fetch(str(tmp_path / "place/run"), tmp_path / "again")
    os.rename(tmp_path / "own", tmp_path / "lost")
    restore.fetch(str(tmp_path / "place/run"), tmp_path / "again")
    for file in (tmp_path / "own").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "lost" / file.relative_to(tmp_path / "own")).read_bytes()
        assert file.stat().st_mode & 0o077 == 0
    assert len(list((tmp_path / "own").iterdir())) == 3


def test_a_store_of_objects_serves_as_well(tmp_path):
    """What is not a folder of this machine is written as one stream, and never renamed."""

    class Objects(SubTreeFileSystem):
        """A folder that does not say so."""

    (tmp_path / "run" / "private" / "00000-a").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("storage: {private: null}\n")
    (tmp_path / "run" / "private" / "00000-a" / "after-000000.safetensors").write_bytes(b"own")
    place = Place(Objects(str(tmp_path / "bucket"), LocalFileSystem()), "run")
    assert not place.local
    made = Checkpoints(tmp_path / "run", PrivateStore(tmp_path / "run/private", ["a"]), place, 1)
    (told,) = made.end(0, {0: 0})
    made.close()
    assert (told.round, told.error, told.bytes) == (0, "", 25 + 3)
    restore.fetch(str(tmp_path / "bucket/run"), tmp_path / "again")
    assert yaml.safe_load((tmp_path / "again/config.yaml").read_text()) == {"storage": {"private": None}}
    assert (tmp_path / "again/private/00000-a/after-000000.safetensors").read_bytes() == b"own"


def test_a_file_that_waits_for_its_copy_stays_as_it_is_whatever_the_run_does(tmp_path):
    """The store writes over old files, but not over those that are linked."""
    store = PrivateStore(tmp_path, ["a"])
    for round in (0, 1):
        store.save(0, round, ClientState({"w": torch.full((4,), float(round))}))
    os.link(store.file(0, 0), tmp_path / "link")
    store.save(0, 2, ClientState({"w": torch.full((4,), 2.0)}))
    store.save(0, 3, ClientState({"w": torch.full((4,), 3.0)}))
    assert load_file(tmp_path / "link")["weights|w"].tolist() == [0.0] * 4


def test_a_run_with_a_key_gives_the_same_numbers_and_goes_on_from_its_checkpoint_with_it(small, whole, tmp_path):
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    x = small(rounds=4, storage={"checkpoint": str(tmp_path / "place"), "key": str(key)})
    run = api.simulate(x, tmp_path / "run")
    assert (run.path / "server.safetensors").read_bytes() == (whole[0] / "server.safetensors").read_bytes()
    for file in (*run.path.glob("private/*/*"), *(tmp_path / "place").glob("run/files/*")):
        assert b"expert/" not in file.read_bytes() or file.name == "server.safetensors"
    again = api.resume(api.opened(tmp_path / "place/run", tmp_path / "again"))
    assert again.summary["mean"] == run.summary["mean"]
    key.write_text("cd" * 32)
    with pytest.raises(RunError, match="another key"):
        api.load_run(run.path) and api.resume(tmp_path / "again")


@pytest.mark.parametrize("what", ["device", "folder", "nothing"])
def test_what_is_no_file_is_not_read(tmp_path, what):
    """A device never ends."""
    if what != "nothing":
        made = tmp_path / "x"
        made.symlink_to("/dev/zero") if what == "device" else made.mkdir()
    place = Place.of(str(tmp_path), "storage.checkpoint")
    for use in (lambda: place.read("x"), lambda: place.get("x", tmp_path / "copy", 0o600)):
        with pytest.raises(FileNotFoundError, match="x is no file"):
            use()
    assert not (tmp_path / "copy").exists()
