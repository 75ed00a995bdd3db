"""Only what is listed leaves a client, and bytes are counted from what really travels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexray.algorithm import Payload
from flexray.sim.wire import CUTS, LeakError, Wire, add_weighted
from flexray.state import Update

WIRE = Wire(Payload({"lora/q/a": (2, 3), "lora/q/b": (4,)}))


def weights(seats: int) -> dict[str, torch.Tensor]:
    return {"lora/q/a": torch.arange(seats * 6.0).view(seats, 2, 3), "lora/q/b": torch.ones(seats, 4)}


def test_one_row_per_seat_in_the_order_of_the_list():
    packed = WIRE.pack(Update(weights(2)), 2)
    assert packed.tolist() == [[0, 1, 2, 3, 4, 5, 1, 1, 1, 1], [6, 7, 8, 9, 10, 11, 1, 1, 1, 1]]
    assert packed[0].nbytes == WIRE.bytes() == 4 * (6 + 4)


def test_unpacking_gives_back_what_was_packed_in_memory_of_its_own():
    vector = WIRE.pack(Update(weights(1)), 1)[0]
    vector.setflags(write=False)
    state = WIRE.unpack(vector).weights
    assert torch.equal(state["lora/q/a"], weights(1)["lora/q/a"][0])
    state["lora/q/a"].add_(100)
    assert vector[0] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"expert/mlp/down": torch.zeros(1, 2)}, "expert/mlp/down"),
        ({"lora/q/a": torch.zeros(1, 3, 2)}, "lora/q/a"),
        ({"lora/q/b": None}, "lora/q/b"),
    ],
)
def test_anything_else_raises(change, named):
    state = {n: t for n, t in (weights(1) | change).items() if t is not None}
    with pytest.raises(LeakError, match=named):
        WIRE.pack(Update(state), 1)


def test_auxiliary_tensors_are_not_smuggled_out():
    with pytest.raises(LeakError, match="gradient"):
        WIRE.pack(Update(weights(1), {"gradient": torch.zeros(1, 1)}), 1)


def test_weighted_sums_by_hand():
    # 0 + 0.25 · [1, 2] + 0.75 · [3, 4] = [2.5, 3.5]; then + 1 · [1, 1]
    total = add_weighted(np.zeros(2, np.float32), np.array([[1, 2], [3, 4]], np.float32), [0.25, 0.75])
    assert total.tolist() == [2.5, 3.5]
    assert add_weighted(total, np.ones((1, 2), np.float32), [1.0]).tolist() == [3.5, 4.5]


def test_nothing_shared_is_an_empty_vector():
    wire = Wire(Payload({}))
    assert wire.pack(Update(), 3).size == wire.pack_one(Update()).size == wire.bytes() == 0
    assert wire.unpack(np.zeros(0, np.float32)) == Update()


def test_auxiliary_state_crosses_only_as_declared():
    wire = Wire(Payload({"lora/q/b": (2,)}, {"c/lora/q/b": (2,), "count": ()}))
    update = Update(
        {"lora/q/b": torch.tensor([[1.0, 2.0]])}, {"c/lora/q/b": torch.tensor([[3.0, 4.0]]), "count": torch.tensor([5.0])}
    )
    vector = wire.pack(update, 1)[0]
    assert vector.tolist() == [1, 2, 3, 4, 5]
    assert wire.bytes_by_part() == {"lora": 8, "c": 8, "count": 4} and wire.bytes() == 20
    again = wire.unpack(vector)
    assert (
        again.aux["count"].shape == ()
        and again.aux["c/lora/q/b"].tolist() == [3, 4]
        and again.weights["lora/q/b"].tolist() == [1, 2]
    )


def test_a_client_of_lower_rank_exchanges_leading_corners():
    """Rank 1 of 2: the first row of a [2, 3] and the first column of a [2, 2]: 3 + 2 of 10 numbers."""
    wire = Wire(Payload({"lora/q/a": (2, 3), "lora/q/b": (2, 2)}))
    small = Payload({"lora/q/a": (1, 3), "lora/q/b": (2, 1)})
    mask = wire.crossing(small)
    assert mask is not None and mask.tolist() == [True, True, True, False, False, False, True, False, True, False]
    assert wire.bytes(small) == 4 * 5 and wire.crossing(wire.payload) is None


def test_which_expert_a_shared_graft_was_cut_from_stays_an_integer():
    wire = Wire(Payload({"expert/mlp/index": (1,)}))
    mean = add_weighted(np.zeros(1, np.float32), np.full((3, 1), 7, np.float32), [1 / 3] * 3)
    assert wire.unpack(mean).weights["expert/mlp/index"].tolist() == [7]
    assert wire.unpack(mean).weights["expert/mlp/index"].dtype == torch.int64


MIXED = Wire(Payload({"lora/q/a": (2, 3), "expert/mlp/index": (2,)}, {"c/lora/q/a": (2, 3), "count": ()}))
PLAIN = Wire(Payload({"lora/q/a": (2, 3), "lora/q/b": (4,)}, {"count": ()}))


def test_views_are_of_the_vector_itself():
    flat = torch.arange(11.0)
    update = PLAIN.views(flat)
    update.weights["lora/q/b"].zero_()
    update.aux["count"].fill_(7)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 7]
    assert update.weights["lora/q/a"].tolist() == [[0, 1, 2], [3, 4, 5]] and update.aux["count"].shape == ()


def test_views_of_several_vectors_have_them_in_front():
    """Of an index the nearest integer: 8.4 and 9.6."""
    flat = torch.arange(30.0).view(2, 15)
    flat[1, 6:8] = torch.tensor([8.4, 9.6])
    update = MIXED.views(flat)
    assert update.weights["lora/q/a"].shape == (2, 2, 3) and update.weights["lora/q/a"][1].tolist() == [
        [15, 16, 17],
        [18, 19, 20],
    ]
    assert update.weights["expert/mlp/index"].tolist() == [[6, 7], [8, 10]]
    assert update.aux["count"].tolist() == [14, 29]


def test_the_servers_own_vector_is_packed_without_a_copy_where_views_made_it():
    flat = torch.arange(11.0)
    packed = PLAIN.pack_one(PLAIN.views(flat))
    assert np.shares_memory(packed, flat.numpy()) and packed.tolist() == flat.tolist()
    flat[3] = 50
    assert packed[3] == 50


def moved(update: Update, what: str, t: torch.Tensor) -> Update:
    return Update(
        {n: t if n == what else u for n, u in update.weights.items()}, {n: t if n == what else u for n, u in update.aux.items()}
    )


OTHERS = {
    "of its own": lambda flat, u: moved(u, "lora/q/b", torch.tensor([6.0, 7, 8, 9])),
    "of another vector": lambda flat, u: moved(u, "lora/q/b", PLAIN.views(flat.clone()).weights["lora/q/b"]),
    "from elsewhere": lambda flat, u: moved(u, "lora/q/b", flat[2:6]),
    "one that stands for several": lambda flat, u: moved(u, "lora/q/b", flat[6:7].expand(4)),
    "of another type": lambda flat, u: moved(u, "lora/q/b", flat.view(torch.int32)[6:10]),
    "turned": lambda flat, u: moved(u, "lora/q/a", flat[:6].view(3, 2).T),
    "the vector's end": lambda flat, u: moved(u, "count", torch.tensor(10.0)),
    "all from a later place": lambda flat, u: PLAIN.views(torch.arange(20.0)[5:16]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_not_the_vectors_own_view_is_packed_anew(other):
    flat = torch.arange(11.0)
    update = OTHERS[other](flat, PLAIN.views(flat))
    every = [*(update.weights[n] for n in PLAIN.payload.weights), update.aux["count"]]
    packed = PLAIN.pack_one(update)
    assert packed.tolist() == [float(x) for t in every for x in t.reshape(-1)]
    assert not np.shares_memory(packed, flat.numpy())


def test_an_index_is_packed_as_a_number():
    update = MIXED.views(torch.arange(15.0))
    assert MIXED.pack_one(update).tolist() == [*range(15)]
    wire = Wire(Payload({"expert/mlp/index": (2,)}))
    assert wire.pack(Update({"expert/mlp/index": torch.tensor([[3, 4]])}), 1).tolist() == [[3, 4]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_packing_fills_the_memory_that_is_given(dtype):
    out = torch.full((2, 10), -1.0)
    update = {n: t.to(dtype).requires_grad_() for n, t in weights(2).items()}
    packed = WIRE.pack(Update(update), 2, out)
    assert np.shares_memory(packed, out.numpy()) and not out.requires_grad
    assert out.tolist() == WIRE.pack(Update(weights(2)), 2).tolist()


def test_what_is_unpacked_from_memory_that_is_everybodys_may_be_written_to():
    vectors = np.arange(20, dtype=np.float32).reshape(2, 10)
    vectors.flags.writeable = False
    WIRE.unpack(vectors).weights["lora/q/b"].zero_()
    assert vectors[1, 9] == 19


@given(shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5), data=st.data())
def test_what_crosses_for_a_lower_rank_is_the_leading_corner_of_each_tensor(shapes, data):
    """Against numbering every tensor's places and asking one by one."""
    whole = {f"lora/{i}/a": tuple(shape) for i, shape in enumerate(shapes)}
    small = {n: tuple(data.draw(st.integers(0, size)) for size in shape) for n, shape in whole.items()}
    wire, cut = Wire(Payload(whole)), Payload(small)
    wanted = [
        all(at < n for at, n in zip(place, small[name], strict=True))
        for name, shape in whole.items()
        for place in np.ndindex(*shape)
    ]
    mask = wire.crossing(cut)
    assert (mask is None and all(wanted)) or (mask is not None and mask.tolist() == wanted)
    assert wire.bytes(cut) == 4 * sum(wanted)
    assert wire.crossing(Payload(dict(small))) is mask  # remembered


def test_of_masks_only_so_many_are_remembered_and_each_is_right():
    wire = Wire(Payload({"lora/q/a": (CUTS + 9, 1)}))
    for _ in range(2):
        for rank in range(CUTS + 9):
            mask = wire.crossing(Payload({"lora/q/a": (rank, 1)}))
            assert mask is not None and mask.sum() == rank and mask[:rank].all()
            assert len(wire._masks) <= CUTS


def test_an_equal_payload_is_all_of_it():
    assert WIRE.crossing(Payload(dict(WIRE.payload.weights))) is None
    assert WIRE.bytes_by_part() is WIRE.bytes_by_part(WIRE.payload)


def test_the_first_of_a_sum_is_put_over_what_was_there():
    # 0.5 · 2 + 0.25 · 4 = 2, whatever the memory held
    total = np.full(1, np.nan, np.float32)
    assert add_weighted(total, np.array([[2], [4]], np.float32), [0.5, 0.25], first=True) is total
    assert total.tolist() == [2.0]
    assert add_weighted(total, np.array([[8]], np.float32), [0.5]).tolist() == [6.0]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_first_has_the_bits_of_a_sum_that_began_with_nothing(seats, numbers, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((seats, numbers)).astype(np.float32)
    shares = rng.random(seats).astype(np.float32).tolist()
    begun = add_weighted(np.zeros(numbers, np.float32), vectors, shares)
    over = add_weighted(np.full(numbers, 9, np.float32), vectors, shares, first=True)
    assert over.tobytes() == begun.tobytes()


def test_a_name_is_among_the_weights_or_in_aux():
    with pytest.raises(AssertionError, match="among the weights and in aux"):
        _ = Wire(Payload({"lora/q/a": (1,)}, {"lora/q/a": (1,)})).numbers
