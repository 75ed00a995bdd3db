"""What a group owns in its turn: seat by seat, nothing written that has not changed, nothing changed that was not written."""

import pytest
import torch

from flexray.models.weights import ALIGNMENT
from flexray.sim.private import owned
from flexray.sim.private.keeper import Keeper
from flexray.sim.private.store import PrivateStore
from flexray.state import ClientState

CPU = torch.device("cpu")


class Counted(PrivateStore):
    """A store that remembers what was written."""

    def __init__(self, root):
        super().__init__(root, [f"c{i}" for i in range(9)])
        self.saves = []

    def save(self, client, round, state):
        self.saves.append((client, round))
        super().save(client, round, state)


@pytest.fixture
def store(tmp_path):
    return Counted(tmp_path / "private")


@pytest.fixture
def keeper(store):
    yield (made := Keeper(store, 1 << 20, 100, behind=True))
    made.close()


def one(value: float) -> ClientState:
    return ClientState({"expert/x": torch.full((2, 3), value)}, {"old/x": torch.full((3,), -value)})


def stacked(*values: float) -> ClientState:
    states = [one(value) for value in values]
    both = ([s.weights for s in states], [s.memory for s in states])
    return ClientState(*({n: torch.stack([own[n] for own in each]) for n in each[0]} for each in both))


def no_start():
    raise AssertionError("nobody is new")


def take(keeper, group, round, known, start=no_start):
    return owned.take(keeper, group, round, known, start, CPU)


def values(state: ClientState) -> list[float]:
    """[K] what each seat was made of; and all of a seat's numbers agree."""
    (x,), (y,) = state.weights.values(), state.memory.values()
    assert (x == x[:, :1, :1]).all() and (y == -x[:, 0, :1]).all()
    return x[:, 0, 0].tolist()


def at_rest(store, client, before=99):
    found = store.load(client, before)
    return values(ClientState(*({n: t[None] for n, t in s.items()} for s in (found.weights, found.memory))))[0]


def test_the_seats_are_in_the_order_of_the_group(keeper):
    for client in range(4):
        keeper.keep(client, 0, one(client))
    known = dict.fromkeys(range(4), 0)
    assert values(take(keeper, (2, 0, 3), 1, known).state) == [2, 0, 3]
    assert values(take(keeper, (1,), 1, known).state) == [1]


def test_newcomers_among_others_get_their_seats_start_which_is_kept_after_their_turn(keeper, store):
    keeper.keep(1, 4, one(10))
    mine = take(keeper, (0, 1, 2), 5, {1: 4}, lambda: stacked(1, 2, 3))
    assert values(mine.state) == [1, 10, 3]  # of seat 1 what it owned, not the start
    assert mine.newcomers == {0, 2}
    keeper.flush()
    assert store.saves == [(1, 4)]
    assert owned.keep(keeper, mine, 5, mine.state, 0) == {0: 5, 2: 5}  # client 1's stays as it was
    keeper.flush()
    assert store.saves == [(1, 4), (0, 5), (2, 5)]
    assert (at_rest(store, 0), at_rest(store, 2)) == (1, 3)


def test_a_start_that_nobody_trained_leaves_no_trace(keeper, store):
    owned.release(keeper, take(keeper, (0, 1), 0, {}, lambda: stacked(5, 6)))
    keeper.flush()
    assert store.saves == [] and store.newest(0, 99) is None
    assert values(take(keeper, (0,), 0, {}, lambda: stacked(7)).state) == [7]


def test_newcomers_who_own_nothing_leave_nothing(keeper, store):
    mine = take(keeper, (0, 1), 0, {}, ClientState)
    assert mine.state == ClientState() and mine.newcomers == {0, 1}
    assert mine.stays(ClientState()) and owned.keep(keeper, mine, 0, ClientState(), 0) == {}
    assert store.saves == []


@pytest.mark.parametrize("group", [(0,), (1, 0)])
def test_nothing_is_written_where_nothing_has_changed(keeper, store, group):
    for client in group:
        keeper.keep(client, 0, one(client))
    mine = take(keeper, group, 1, dict.fromkeys(group, 0))
    for after in (
        mine.state,
        ClientState(dict(mine.state.weights), dict(mine.state.memory)),
        ClientState({n: t[:] for n, t in mine.state.weights.items()}, {n: t.detach() for n, t in mine.state.memory.items()}),
    ):
        assert mine.stays(after)
        assert owned.keep(keeper, mine, 1, after, 0) == {}
    keeper.flush()
    assert sorted(store.saves) == [(client, 0) for client in sorted(group)]


CHANGES = {
    "other numbers": lambda s: ClientState({n: t + 1 for n, t in s.weights.items()}, s.memory),
    "a copy": lambda s: ClientState({n: t.clone() for n, t in s.weights.items()}, s.memory),
    "one more": lambda s: ClientState(s.weights, s.memory | {"new": torch.zeros(len(s.weights["expert/x"]), 1)}),
    "one less": lambda s: ClientState(s.weights, {}),
    "another name": lambda s: ClientState(s.weights, {"new/x": s.memory["old/x"]}),
    "another shape": lambda s: ClientState({n: t.reshape(len(t), -1) for n, t in s.weights.items()}, s.memory),
    "turned round": lambda s: ClientState({n: t.view(-1, 3, 2) for n, t in s.weights.items()}, s.memory),
}


@pytest.mark.parametrize("group", [(0,), (1, 0)])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_another_state_is_written(keeper, store, change, group):
    for client in group:
        keeper.keep(client, 0, one(client))
    mine = take(keeper, group, 1, dict.fromkeys(group, 0))
    after = CHANGES[change](mine.state)
    assert not mine.stays(after)
    assert owned.keep(keeper, mine, 1, after, 0) == dict.fromkeys(group, 1)
    keeper.flush()
    for k, client in enumerate(group):
        found = store.load(client, 2)
        for mine_, yours in ((found.weights, after.weights), (found.memory, after.memory)):
            assert mine_.keys() == yours.keys() and all(torch.equal(t, yours[n][k]) for n, t in mine_.items())


@pytest.mark.parametrize("group", [(0,), (1, 0)])
def test_a_method_that_writes_into_its_tensors_is_heard(keeper, store, group):
    for client in group:
        keeper.keep(client, 0, one(client))
    known = dict.fromkeys(group, 0)
    mine = take(keeper, group, 1, known)
    for t in (*mine.state.weights.values(), *mine.state.memory.values()):
        t.mul_(0)
    assert mine.touched and not mine.stays(mine.state)
    assert owned.keep(keeper, mine, 1, mine.state, 0) == dict.fromkeys(group, 1)
    keeper.flush()
    assert [at_rest(store, client) for client in group] == [0] * len(group)
    assert values(take(keeper, group, 2, dict.fromkeys(group, 1)).state) == [0] * len(group)
    # the round before is what it was
    assert [at_rest(store, client, 1) for client in group] == [*group]
    assert values(take(keeper, group, 1, known).state) == [*group]


@pytest.mark.parametrize("group", [(0,), (1, 0)])
def test_scoring_that_writes_into_its_tensors_changes_nothing(keeper, store, group):
    for client in group:
        keeper.keep(client, 0, one(client))
    known = dict.fromkeys(group, 0)
    mine = take(keeper, group, 1, known)
    mine.state.weights["expert/x"].zero_()
    owned.release(keeper, mine)
    assert values(take(keeper, group, 1, known).state) == [*group]
    keeper.flush()
    assert sorted(store.saves) == [(client, 0) for client in sorted(group)]


def kept(keeper, client):
    return keeper._here[client].state.weights["expert/x"]


def keep(keeper, group, after, lent=0):
    mine = owned.Owned(group, ClientState(), [], {})
    return owned.keep(keeper, mine, 0, after, lent)


def test_a_view_of_a_larger_memory_is_copied(keeper):
    """Of 1,000 numbers six are the client's."""
    large = torch.ones(1000)
    keep(keeper, (0,), ClientState({"expert/x": large[64:70].view(1, 2, 3)}))
    large.zero_()
    assert kept(keeper, 0).untyped_storage().nbytes() == 24 and kept(keeper, 0).eq(1).all()


def test_memory_that_is_lent_is_copied(keeper):
    lent = torch.ones(1, 2, 3)
    keep(keeper, (0,), ClientState({"expert/x": lent}), lent.untyped_storage().data_ptr())
    lent.zero_()
    assert kept(keeper, 0).eq(1).all()


@pytest.mark.parametrize("group", [(0,), (0, 1)])
def test_a_start_in_memory_that_is_lent_is_copied(keeper, group):
    """A method may begin with what the server sent; the next round's comes to the same place."""
    lent = torch.ones(2, 3)
    fresh = ClientState({"expert/x": lent.expand(len(group), 2, 3)})
    mine = owned.take(keeper, group, 0, {}, lambda: fresh, CPU, lent.untyped_storage().data_ptr())
    owned.keep(keeper, mine, 0, mine.state, lent.untyped_storage().data_ptr())
    lent.zero_()
    assert all(kept(keeper, client).eq(1).all() for client in group)


def test_a_memory_of_the_clients_own_is_kept_as_it_is(keeper):
    own = torch.ones(1, 2, 3)
    keep(keeper, (0,), ClientState({"expert/x": own}))
    assert kept(keeper, 0).data_ptr() == own.data_ptr()


def test_what_is_not_contiguous_or_wants_a_gradient_is_kept_as_its_numbers(keeper, store):
    turned = torch.arange(6.0).view(1, 3, 2).transpose(1, 2).requires_grad_()
    keep(keeper, (0,), ClientState({"expert/x": turned}))
    assert kept(keeper, 0).is_contiguous() and not kept(keeper, 0).requires_grad
    assert kept(keeper, 0).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_one_value_for_all_seats_is_each_clients_own(keeper, store):
    """Client 0 alone writes into its tensors: client 1 still has what it had."""
    keep(keeper, (0, 1), ClientState({"expert/x": torch.ones(2, 3).expand(2, 2, 3)}, {"old/x": -torch.ones(3).expand(2, 3)}))
    mine = take(keeper, (0,), 1, {0: 0, 1: 0})
    for t in (*mine.state.weights.values(), *mine.state.memory.values()):
        t.zero_()
    owned.keep(keeper, mine, 1, mine.state, 0)
    assert values(take(keeper, (1,), 1, {0: 0, 1: 0}).state) == [1]
    keeper.flush()
    assert (at_rest(store, 0), at_rest(store, 1)) == (0, 1)


@pytest.mark.parametrize("start", [False, True])
def test_what_a_method_remembers_of_its_weights_is_no_view_of_them(keeper, store, start):
    """Writing into the one leaves the other, as if both had been read from their file."""
    x = torch.ones(1, 2, 3)
    after = ClientState({"expert/x": x}, {"old/x": x})
    if start:
        mine = take(keeper, (0,), 0, {}, lambda: after)
        owned.keep(keeper, mine, 0, mine.state, 0)
    else:
        keep(keeper, (0,), after)
    keeper.flush()
    known = {0: 0}
    for own in (keeper, Keeper(store, 0, 0, behind=False)):
        mine = take(own, (0,), 1, known)
        mine.state.weights["expert/x"].zero_()
        assert mine.state.memory["old/x"].eq(1).all()
        owned.release(own, mine)


def test_a_turn_in_memory_has_the_alignment_of_one_from_files(keeper, store):
    """Seats of 24 bytes, one behind the other: those but the first lie as no new tensor does."""
    keep(keeper, (0, 1, 2), stacked(0, 1, 2))
    keeper.flush()
    known = dict.fromkeys(range(3), 0)
    for client in range(3):
        for own in (keeper, Keeper(store, 0, 0, behind=False)):
            state = take(own, (client,), 1, known).state
            assert values(state) == [client]
            assert all(t.data_ptr() % ALIGNMENT == 0 and t.is_contiguous() for t in state.weights.values())


def test_a_state_must_keep_its_names(keeper):
    keeper.keep(0, 0, one(0))
    keeper.keep(1, 0, ClientState({"other": torch.ones(1)}))
    with pytest.raises(AssertionError, match="the same names in every round"):
        take(keeper, (0, 1), 1, {0: 0, 1: 0})


def test_tensors_made_for_inference_are_always_written(keeper, store):
    """They do not tell who wrote into them."""
    with torch.inference_mode():
        keep(keeper, (0,), stacked(3))
    mine = take(keeper, (0,), 1, {0: 0})
    if mine.state.weights["expert/x"].is_inference():
        assert not mine.stays(mine.state)
        assert owned.keep(keeper, mine, 1, mine.state, 0) == {0: 1}
        keeper.flush()
        assert at_rest(store, 0) == 3
