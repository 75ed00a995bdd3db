"""Private state between turns: whatever stays in memory, is written meanwhile or read ahead, it is what the files say."""

from threading import Event

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.errors import RunError
from flexray.models.weights import ALIGNMENT
from flexray.sim.private import keeper as keepers
from flexray.sim.private.keeper import SHARE, Keeper
from flexray.sim.private.store import PrivateStore
from flexray.state import ClientState

SIZE = 4 * 4 + 8
"""Bytes of what `owned` makes: four float32 and an int64."""
CLIENTS = 4


class Watched(PrivateStore):
    """A store that remembers what was read, and whose writing can be held up or made to fail."""

    def __init__(self, root):
        super().__init__(root, [f"c{i}" for i in range(CLIENTS)])
        self.reads, self.saves = [], []
        self.go, self.wrong = Event(), None
        self.go.set()

    def read(self, client, round):
        self.reads.append((client, round))
        return super().read(client, round)

    def save(self, client, round, state):
        assert self.go.wait(10)
        if self.wrong:
            raise self.wrong
        super().save(client, round, state)
        self.saves.append((client, round))


@pytest.fixture
def store(tmp_path):
    return Watched(tmp_path / "private")


@pytest.fixture
def make(store):
    """Makes keepers, whose threads end with the test."""
    made = []

    def one(room: int = 10 * SIZE, most: int = 10, behind: bool = True, at=store) -> Keeper:
        made.append(Keeper(at, room, most, behind))
        return made[-1]

    yield one
    store.go.set()
    for keeper in made:
        keeper.close()


def owned(value: float) -> ClientState:
    return ClientState({"expert/x": torch.full((4,), float(value))}, {"count": torch.tensor(int(value))})


def value(state: ClientState | None) -> float:
    assert state is not None
    return state.weights["expert/x"][0].item()


@pytest.mark.parametrize("behind", [False, True])
def test_what_is_in_memory_is_taken_only_if_its_round_is_the_one_asked_for(make, store, behind):
    keeper = make(behind=behind)
    for round in (1, 2):
        assert keeper.keep(0, round, owned(round))
    keeper.flush()
    assert value(keeper.load(0, 3, {0: 2})) == 2 and store.reads == []
    assert value(keeper.load(0, 2, {0: 1})) == 1 and store.reads == [(0, 1)]
    assert value(keeper.load(0, 3, {0: 2})) == 2 and store.reads == [(0, 1), (0, 2)]  # one state of a client is in memory


def test_without_knowledge_the_files_are_looked_at(make, store):
    """Another process may have written meanwhile."""
    keeper = make()
    keeper.keep(0, 1, owned(1))
    assert value(keeper.load(0, 2)) == 1 and store.reads == []
    PrivateStore.save(store, 0, 2, owned(2))
    assert value(keeper.load(0, 3)) == 2
    assert value(keeper.load(0, 2)) == 1
    assert keeper.load(1, 9) is None


def test_a_client_of_whom_nothing_is_known_is_new(make):
    keeper = make()
    keeper.keep(0, 5, owned(7))
    assert keeper.load(0, 5, {1: 4}) is None


def test_after_a_stop_the_clients_go_on_from_what_the_last_round_left(make, store):
    """Client 0 was trained in the round that was not finished, clients 1 and 2 were not; 3 is new."""
    before = make()
    for client, round in ((0, 3), (0, 4), (1, 2), (2, 0)):
        before.keep(client, round, owned(10 * client + round))
    before.flush()
    known = store.forget_after(3)
    assert known == {0: 3, 1: 2, 2: 0}
    after = make()
    assert [value(after.load(c, 4, known)) for c in (0, 1, 2)] == [3, 12, 20]
    assert after.load(3, 4, known) is None


def test_who_owns_nothing_is_not_kept(make, store):
    keeper = make()
    assert not keeper.keep(0, 1, ClientState())
    keeper.flush()
    assert store.saves == [] and keeper.load(0, 2, {}) is None


@pytest.mark.parametrize(
    ("room", "most", "stay"),
    [
        (10 * SIZE, 10, [0, 1, 2, 3]),
        (2 * SIZE, 10, [2, 3]),
        (3 * SIZE - 1, 10, [2, 3]),
        (10 * SIZE, 1, [3]),
        (SIZE - 1, 10, []),
        (0, 0, []),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_room_and_number_bound_what_stays_and_the_latest_do(make, store, room, most, stay, behind):
    keeper = make(room, most, behind)
    for client in range(CLIENTS):
        keeper.keep(client, 0, owned(client))
    keeper.flush()
    assert store.saves == [(c, 0) for c in range(CLIENTS)]
    for client in stay:
        keeper.load(client, 1, {client: 0})
    assert store.reads == []
    for client in {*range(CLIENTS)} - {*stay}:
        assert value(keeper.load(client, 1, {client: 0})) == client
    assert [client for client, _ in store.reads] == sorted({*range(CLIENTS)} - {*stay})


def test_who_was_asked_for_last_stays_longest(make, store):
    keeper = make(most=2)
    keeper.keep(0, 0, owned(0))
    keeper.keep(1, 0, owned(1))
    keeper.load(0, 1, {0: 0})
    keeper.keep(2, 0, owned(2))
    keeper.flush()
    keeper.load(0, 1, {0: 0})
    assert store.reads == []
    keeper.load(1, 1, {1: 0})
    assert store.reads == [(1, 0)]


def test_a_newer_state_of_a_client_takes_the_room_of_the_older(make, store):
    keeper = make(room=2 * SIZE)
    keeper.keep(1, 0, owned(1))
    for round in range(5):
        keeper.keep(0, round, owned(round))
    keeper.flush()
    keeper.load(1, 1, {1: 0})
    assert store.reads == []


def test_what_waits_to_be_written_is_bounded_by_room(make, store):
    """Room for two: with the writer held up, the third waits for the first."""
    keeper, first = make(room=2 * SIZE), owned(0)
    store.go.clear()
    keeper.keep(0, 0, first)
    keeper.keep(1, 0, owned(1))
    assert store.saves == []  # kept at once, and read back without waiting for anything
    writing = [going.writing for going in keeper._going]
    assert len(writing) == 2
    store.go.set()
    keeper.keep(2, 0, owned(2))
    assert writing[0].done()
    keeper.flush()
    assert store.saves == [(0, 0), (1, 0), (2, 0)] and not keeper._going


def test_a_state_that_is_being_written_is_given_out_only_when_it_is_written(make, store):
    """Whoever gets it may write into it."""
    keeper = make()
    store.go.clear()
    keeper.keep(0, 0, owned(5))
    writing = keeper._here[0].writing
    assert writing is not None and not writing.done()
    store.go.set()
    found = keeper.load(0, 1, {0: 0})
    assert writing.done() and found is not None
    found.weights["expert/x"].zero_()
    assert value(PrivateStore.read(store, 0, 0)) == 5


def test_a_write_that_fails_is_raised_when_all_is_to_be_at_rest(make, store):
    keeper = make()
    store.wrong = OSError(28, "No space left on device")
    store.go.clear()
    keeper.keep(0, 0, owned(0))
    store.go.set()
    with pytest.raises(RunError, match=r"private state of client c0 could not be written: OSError: .*No space left"):
        keeper.flush()


def test_a_write_that_fails_at_once_is_raised_at_once(make, store):
    store.wrong = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        make(behind=False).keep(0, 0, owned(0))


def test_nobody_gets_a_state_whose_writing_failed(make, store):
    keeper = make()
    store.wrong = OSError(28, "No space left on device")
    store.go.clear()
    keeper.keep(0, 0, owned(0))
    store.go.set()
    with pytest.raises(OSError, match="No space left"):
        keeper.load(0, 1, {0: 0})


def test_what_was_written_into_is_dropped_and_read_again(make, store):
    keeper = make()
    keeper.keep(0, 0, owned(5))
    state = keeper.load(0, 1, {0: 0})
    assert state is not None
    state.weights["expert/x"].zero_()
    keeper.drop([0, 1])  # a client that is not here is no error
    assert value(keeper.load(0, 1, {0: 0})) == 5 and store.reads == [(0, 0)]
    assert keeper._bytes == SIZE


def test_states_are_read_ahead_once_and_only_those_that_are_not_here(make, store):
    before = make()
    for client in range(3):
        before.keep(client, 0, owned(client))
    before.flush()
    keeper, known = make(most=1), {0: 0, 1: 0, 2: 0}
    keeper.load(0, 1, known)
    for _ in range(2):
        keeper.ahead(list(known.items()))
    found = [value(keeper.load(client, 1, known)) for client in (0, 1, 2)]
    assert found == [0, 1, 2] and sorted(store.reads) == [(0, 0), (1, 0), (2, 0)]


def test_what_was_read_ahead_of_another_round_is_not_taken(make, store):
    for round in (0, 1):
        PrivateStore.save(store, 0, round, owned(round))
    keeper = make()
    keeper.ahead([(0, 0)])
    assert value(keeper.load(0, 2, {0: 1})) == 1


def test_a_file_that_is_not_there_is_an_error_only_for_who_wants_it(make):
    keeper = make()
    keeper.ahead([(0, 3)])
    assert keeper.load(1, 4, {}) is None
    with pytest.raises(RunError, match="No such file"):
        keeper.load(0, 4, {0: 3})


def test_without_threads_nothing_is_read_ahead(make, store):
    PrivateStore.save(store, 0, 0, owned(3))
    keeper = make(behind=False)
    keeper.ahead([(0, 0)])
    assert store.reads == []
    assert value(keeper.load(0, 1, {0: 0})) == 3


def test_in_memory_or_from_its_file_a_state_has_the_same_bits_and_alignment(make, store):
    """No numbers, and numbers of odd sizes one behind the other in the file."""
    g = torch.Generator().manual_seed(0)
    state = ClientState(
        {"a/b/c": torch.randn(3, 5, generator=g), "a/b/d": torch.tensor([float("nan"), -0.0])},
        {"x": torch.tensor(True), "y": torch.arange(3), "z": torch.ones(0), "h": torch.randn(7, generator=g).bfloat16()},
    )
    keeper = make()
    keeper.keep(0, 0, state)
    kept, read = keeper.load(0, 1, {0: 0}), make().load(0, 1, {0: 0})
    assert kept is not None and read is not None
    for mine, yours in ((kept.weights, read.weights), (kept.memory, read.memory)):
        assert list(mine) == list(yours)
        for name, t in mine.items():
            u = yours[name]
            assert (t.dtype, t.shape, t.stride()) == (u.dtype, u.shape, u.stride())
            assert t.data_ptr() % ALIGNMENT == u.data_ptr() % ALIGNMENT == 0
            assert t.view(-1).view(torch.uint8).equal(u.view(-1).view(torch.uint8)), name


STEPS = st.lists(
    st.tuples(st.sampled_from(["keep", "load", "ahead", "drop", "flush"]), st.integers(0, CLIENTS - 1)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, room=st.integers(0, 4).map(lambda n: n * SIZE), most=st.integers(0, 4))
def test_written_behind_is_written_at_once(tmp_path_factory, steps, room, most):
    """Whatever is asked in whatever order, both give what was kept last, and leave the same files."""
    stores = [Watched(tmp_path_factory.mktemp("private")) for _ in range(2)]
    both = [Keeper(store, room, most, behind) for store, behind in zip(stores, (False, True), strict=True)]
    known: dict[int, int] = {}
    for round, (what, client) in enumerate(steps):
        for keeper in both:
            if what == "keep":
                keeper.keep(client, round, owned(round))
                keeper.flush()  # as at the end of a round
            elif what == "load":
                found = keeper.load(client, round, known)
                assert (None if found is None else value(found)) == known.get(client)
            elif what == "ahead":
                keeper.ahead(list(known.items())[: client + 1])
            else:
                keeper.drop([client]) if what == "drop" else keeper.flush()
            assert keeper._bytes == SIZE * len(keeper._here) <= room and len(keeper._here) <= most
        known |= {client: round} if what == "keep" else {}
    for keeper in both:
        keeper.close()
    assert stores[0].saves == stores[1].saves
    assert [s.forget_after(99) for s in stores] == [known, known]


def test_a_node_is_shared_among_its_actors(monkeypatch):
    monkeypatch.setattr(keepers, "free_memory", lambda: (1600, 9999))
    assert keepers.room(4) == int(SHARE * 1600 / 4) == 100
