"""Private state at rest: two generations, whole or absent, for the owner's eyes."""

import stat

import pytest
import torch

from flexray.sim.private.store import PrivateStore
from flexray.state import ClientState


@pytest.fixture
def store(tmp_path):
    return PrivateStore(tmp_path / "private", ["ann/1", "ann:1"])


def owned(value: float) -> ClientState:
    return ClientState({"expert/x": torch.full((2,), value)}, {"control": torch.tensor(value)})


def test_what_was_kept_comes_back(store):
    store.save(0, 4, owned(4))
    found = store.load(0, before=5)
    assert torch.equal(found.weights["expert/x"], torch.full((2,), 4.0))
    assert found.memory["control"] == 4


def test_a_round_sees_the_state_before_it(store):
    store.save(0, 0, owned(-1))
    store.save(0, 2, owned(2))
    assert store.load(0, before=0) is None
    assert store.load(0, before=2).memory["control"] == -1
    assert store.load(0, before=3).memory["control"] == 2


def test_newcomers_have_nothing(store):
    assert store.load(1, before=9) is None


def test_two_generations_are_kept(store):
    for r in range(5):
        store.save(0, r, owned(r))
    assert len(list(store.folder(0).iterdir())) == 2
    assert store.load(0, before=4).memory["control"] == 3


def test_unfinished_rounds_are_forgotten(store):
    store.save(0, 2, owned(2))
    store.save(0, 3, owned(3))
    store.forget_after(2)
    assert store.load(0, before=9).memory["control"] == 2


def test_odd_names_do_not_collide_or_leave_the_folder(store):
    assert store.folder(0) != store.folder(1)
    assert store.folder(0).parent == store.root


def test_only_the_owner_may_read(store):
    store.save(0, 0, owned(0))
    (file,) = store.folder(0).iterdir()
    assert stat.S_IMODE(store.folder(0).stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nothing_private_leaves_no_file(store):
    store.save(0, 0, ClientState())
    assert not store.folder(0).exists()
