"""What the server sent, in the hands of clients: unpacked once, guarded against writing, cut for who has a lower rank."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from flexray.algorithm import Payload
from flexray.sim.sent import Sent
from flexray.sim.wire import Wire

WIRE = Wire(Payload({"lora/q/a": (2, 2)}, {"count": ()}))
SMALL = Payload({"lora/q/a": (1, 2)}, {"count": ()})


@dataclass(frozen=True)
class Ranks:
    """Of a method only what is asked here: who has a lower rank."""

    low: tuple[int, ...] = ()

    def cut(self, payload: Payload, client: int) -> Payload:
        return SMALL if client in self.low else payload


def made(*low: int) -> Sent:
    method: Any = Ranks(low)
    return Sent(WIRE, method, torch.device("cpu"))


def vector(start: float = 1.0) -> np.ndarray:
    return np.arange(start, start + 5, dtype=np.float32)


def test_every_seat_has_the_same_numbers_without_copies():
    sent, came = made(), vector()
    update = sent.widened(came, (4, 7, 9))
    assert update.weights["lora/q/a"].tolist() == [[[1, 2], [3, 4]]] * 3 and update.aux["count"].tolist() == [5] * 3
    assert update.weights["lora/q/a"].stride(0) == 0
    assert update.weights["lora/q/a"].untyped_storage().data_ptr() == sent.place


def test_what_came_is_everybodys_and_is_copied():
    sent, came = made(), vector()
    came.flags.writeable = False
    update = sent.widened(came, (0,))
    update.weights["lora/q/a"].add_(1)
    assert came.tolist() == [1, 2, 3, 4, 5]


def test_a_vector_is_unpacked_once_for_all_groups():
    sent, came = made(), vector()
    x, y, one = sent.widened(came, (0, 1)), sent.widened(came, (2, 3)), sent.widened(came, (4,))
    assert x.weights["lora/q/a"] is y.weights["lora/q/a"]
    assert one.weights["lora/q/a"].shape == (1, 2, 2) and one.weights["lora/q/a"].data_ptr() == x.weights["lora/q/a"].data_ptr()
    x.weights.clear()  # the dicts are each group's own
    assert sent.widened(came, (0, 1)).weights.keys() == {"lora/q/a"}


def test_another_vector_takes_its_place():
    """As with clusters, whose groups come in turn."""
    sent, first, second = made(), vector(1), vector(10)
    for came, begins in ((first, 1), (second, 10), (first, 1)):
        assert sent.widened(came, (0,)).weights["lora/q/a"][0, 0, 0] == begins
    del first, came
    sent.forget()
    assert sent.widened(vector(20), (0,)).weights["lora/q/a"][0, 0, 0] == 20


@pytest.mark.parametrize("seats", [1, 2])
@pytest.mark.parametrize("how", ["weights", "aux", "a view"])
def test_writing_to_what_all_share_is_an_error_and_the_next_round_begins_anew(seats, how):
    sent, came = made(), vector()
    update = sent.widened(came, tuple(range(seats)))
    sent.check()
    t = update.aux["count"] if how == "aux" else update.weights["lora/q/a"]
    (t[0] if how == "a view" or seats > 1 else t).mul_(2)
    with pytest.raises(RuntimeError, match="wrote to tensors that the server sent"):
        sent.check()
    sent.check()
    assert sent.widened(came, (0,)).weights["lora/q/a"].tolist() == [[[1, 2], [3, 4]]]


def test_new_tensors_made_of_what_was_sent_are_no_writing():
    sent = made()
    update = sent.widened(vector(), (0,))
    update.weights["lora/q/a"].mul(2).add_(1)
    sent.check()


def test_a_client_of_lower_rank_gets_its_corner_alone():
    """Client 3 has the first row of the two; the others of its group have all."""
    sent = made(3)
    update = sent.widened(vector(), (1, 3))
    assert update.weights["lora/q/a"].tolist() == [[[1, 2], [3, 4]], [[1, 2], [0, 0]]]
    assert update.aux["count"].tolist() == [5, 5]
    update.weights["lora/q/a"].zero_()  # of this group alone
    sent.check()
    assert sent.widened(vector(), (1,)).weights["lora/q/a"].tolist() == [[[1, 2], [3, 4]]]


def test_what_comes_behind_the_tensors_is_nobodys_business_here():
    sent, came = made(), np.append(vector(), np.float32(9))
    assert sent.widened(came, (0,)).aux["count"].tolist() == [5]
    assert made(0).widened(came, (0,)).weights["lora/q/a"].tolist() == [[[1, 2], [0, 0]]]
