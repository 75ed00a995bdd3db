"""Only what is listed leaves a client, and bytes are counted from what really travels."""

import numpy as np
import pytest
import torch

from flexray.algorithm import Payload
from flexray.sim.wire import LeakError, Wire, add_weighted
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
