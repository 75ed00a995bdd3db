"""Private state at rest: two generations, whole or absent, for the owner's eyes."""

import os
import stat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from flexray.errors import RunError
from flexray.sim import disk
from flexray.sim.private import at_rest
from flexray.sim.private.sealed import Seal
from flexray.sim.private.store import PrivateStore, this_process
from flexray.state import ClientState

ODD = ["ann/1", "ann:1", "..", "", "a b\n", "ж" * 300, "-", "7"]


@pytest.fixture
def store(tmp_path):
    return PrivateStore(tmp_path / "private", ["ann/1", "ann:1"])


def owned(value: float) -> ClientState:
    return ClientState({"expert/x": torch.full((2,), value)}, {"control": torch.tensor(value)})


def control(store: PrivateStore, client: int, before: int) -> float:
    found = store.load(client, before)
    assert found is not None
    return found.memory["control"].item()


def rounds(store: PrivateStore, client: int = 0) -> list[str]:
    return sorted(os.listdir(store.folder(client)))


def test_what_was_kept_comes_back(store):
    store.save(0, 4, owned(4))
    found = store.load(0, before=5)
    assert torch.equal(found.weights["expert/x"], torch.full((2,), 4.0))
    assert found.memory["control"] == 4
    assert store.newest(0, 5) == 4 and store.read(0, 4).memory["control"] == 4


def test_a_round_sees_the_state_before_it(store):
    store.save(0, 0, owned(-1))
    store.save(0, 2, owned(2))
    assert store.load(0, before=0) is None
    assert control(store, 0, before=2) == -1
    assert control(store, 0, before=3) == 2


def test_newcomers_have_nothing(store):
    assert store.load(1, before=9) is None and store.newest(1, 9) is None


def test_two_generations_are_kept(store):
    for r in range(5):
        store.save(0, r, owned(r))
    assert rounds(store) == ["after-000003.safetensors", "after-000004.safetensors"]
    assert control(store, 0, before=4) == 3


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=8))
def test_the_state_before_the_last_round_is_always_there(tmp_path_factory, steps):
    """Rounds with gaps between them, some of them done again: what is read is what a dict of all of them has."""
    store, every, round = PrivateStore(tmp_path_factory.mktemp("private"), ["ann"]), {}, 0
    for gap, again in steps:
        store.save(0, round, owned(round))
        every[round] = round
        if again:  # by another process, with another outcome
            store.save(0, round, owned(round + 0.5))
            every[round] = round + 0.5
        assert len(rounds(store)) == min(2, len(every))
        for before in (round, round + 1):
            wanted = max((r for r in every if r < before), default=None)
            assert (control(store, 0, before) if wanted is not None else store.load(0, before)) == every.get(wanted)
        round += gap


def test_the_oldest_file_is_written_over_and_what_is_shorter_is_cut(store):
    """Its memory is used again: the third file is where the first was."""
    store.save(0, 0, ClientState({"expert/x": torch.ones(5000)}))
    store.save(0, 1, owned(1))
    place = (store.folder(0) / "after-000000.safetensors").stat().st_ino
    store.save(0, 2, owned(2))
    file = store.folder(0) / "after-000002.safetensors"
    assert file.stat().st_ino == place
    assert load_file(file).keys() == {"weights|expert/x", "memory|control"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_round_that_is_done_again_replaces_what_it_gave_and_leaves_what_was_before(store):
    store.save(0, 2, owned(2))
    for value in (3, 30, 300):
        store.save(0, 3, owned(value))
    assert (control(store, 0, before=3), control(store, 0, before=4)) == (2, 300)


def test_a_write_that_fails_leaves_both_generations_as_they_were(store, monkeypatch):
    store.save(0, 0, owned(0))
    store.save(0, 1, owned(1))
    store.save(0, 2, owned(2))

    def half(path, tensors, **_):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(at_rest, "write", half)
    with pytest.raises(OSError, match=r"No space left on device: '.*/00000-.*/after-000003\.safetensors'"):
        store.save(0, 3, owned(3))
    assert store.newest(0, 9) == 2 and control(store, 0, before=9) == 2
    monkeypatch.undo()
    store.save(0, 3, owned(3))
    assert control(store, 0, before=9) == 3 and control(store, 0, before=3) == 2


def test_a_tensor_that_is_among_the_weights_and_in_memory_is_written_twice(store):
    t = torch.arange(3.0)
    store.save(0, 0, ClientState({"x/y/z": t}, {"old/x/y/z": t}))
    found = store.read(0, 0)
    found.weights["x/y/z"].add_(1)
    assert found.memory["old/x/y/z"].tolist() == [0, 1, 2]


def test_unfinished_rounds_are_forgotten_and_the_newest_that_stay_are_told(store):
    for r in (2, 3):
        store.save(0, r, owned(r))
    store.save(1, 0, owned(-1))
    (store.folder(1) / ".77.tmp").write_bytes(b"cut short")
    assert store.forget_after(2) == {0: 2, 1: 0}
    assert not (store.folder(1) / ".77.tmp").exists()
    assert control(store, 0, before=9) == 2
    assert store.forget_after(1) == {1: 0}
    assert store.load(0, before=9) is None


def test_before_anything_was_written_there_is_nothing_to_forget(store):
    assert store.forget_after(3) == {}


def test_what_a_write_that_was_cut_short_left_is_no_state(store):
    store.save(0, 0, owned(0))
    (store.folder(0) / ".77.tmp").write_bytes(b"half")
    assert store.forget_after(5) == {0: 0}
    assert store.newest(0, 9) == 0


def test_what_is_not_a_clients_is_left_alone(store):
    """Copying programs leave files of their own."""
    store.save(0, 0, owned(0))
    (store.root / ".DS_Store").write_bytes(b"x")
    (store.root / "notes").mkdir()
    assert store.forget_after(5) == {0: 0}


def test_odd_names_do_not_collide_or_leave_the_folder(tmp_path):
    store = PrivateStore(tmp_path / "private", ODD)
    for client in range(len(ODD)):
        store.save(client, client, owned(client))
        assert store.folder(client).parent == store.root
    assert len(os.listdir(store.root)) == len(ODD)
    assert [control(store, client, 99) for client in range(len(ODD))] == list(range(len(ODD)))
    assert store.forget_after(99) == {client: client for client in range(len(ODD))}


def test_only_the_owner_may_read(store):
    before = os.umask(0)
    try:
        store.save(0, 0, owned(0))
    finally:
        os.umask(before)
    (file,) = store.folder(0).iterdir()
    assert stat.S_IMODE(store.folder(0).stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nothing_private_leaves_no_file(store):
    store.save(0, 0, ClientState())
    assert not store.folder(0).exists()


def test_with_a_key_no_file_shows_anything_and_none_can_be_swapped(tmp_path):
    """Another client's state, and one of another round, are refused as are changed ones."""
    store = PrivateStore(tmp_path, ["ann", "bob"], seal=Seal(bytes(32)))
    for client in (0, 1):
        for round in (0, 1):
            store.save(client, round, owned(client + round / 2))
    assert control(store, 1, before=2) == 1.5
    assert b"expert" not in store.file(0, 1).read_bytes()
    mine = store.file(0, 1).read_bytes()
    for other in (store.file(1, 1), store.file(0, 0)):
        store.file(0, 1).write_bytes(other.read_bytes())
        with pytest.raises(
            RunError, match=r"private state of client ann after round 1: .*another client's or round's\)\. Put the file"
        ):
            store.load(0, before=2)
    store.file(0, 1).write_bytes(mine[:-1])
    with pytest.raises(RunError, match="changed or cut short"):
        store.load(0, before=2)
    with pytest.raises(RunError, match="another key"):
        PrivateStore(tmp_path, ["ann", "bob"], seal=Seal(bytes(31) + b"1")).load(1, before=2)


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(disk, "rest", lambda path: done.append(("rest", os.path.basename(path))))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("name", os.path.basename(b))), replace(a, b)))
    PrivateStore(tmp_path, ["ann"], durable=True).save(0, 0, owned(1))
    assert done == [("rest", f".{this_process()}.tmp"), ("name", "after-000000.safetensors"), ("rest", "00000-ann")]
