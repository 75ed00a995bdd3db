"""Memory that is used again: never while somebody can still see it."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.sim.vectors import MOST, Vectors
from flexray.sim.wire import Payload, Wire

HOLDERS = {
    "itself": lambda v: v,
    "a slice": lambda v: v[2:4],
    "a slice of a slice": lambda v: v[1:][1:],
    "another shape": lambda v: v.reshape(2, 5),
    "another type": lambda v: v.view(np.int32),
    "a read-only view": lambda v: np.broadcast_to(v, (3, 10)),
    "a tensor": lambda v: torch.from_numpy(v),
    "a piece of a tensor": lambda v: torch.from_numpy(v)[3:5].view(2, 1),
    "an array of a tensor": lambda v: torch.from_numpy(v)[1:].numpy(),
    "a memory view": lambda v: memoryview(v)[1:],
    "a list": lambda v: [v],
    "a function": lambda v: lambda: v,
    "the tensors of an update": lambda v: Wire(Payload({"a": (4,), "b": (2, 3)})).views(torch.from_numpy(v)),
}


def place(vector: np.ndarray) -> int:
    return vector.__array_interface__["data"][0]


@pytest.mark.parametrize("how", HOLDERS)
def test_a_vector_comes_again_only_when_nobody_holds_it_or_a_view_of_it(how):
    vectors = Vectors()
    first = vectors.take(10)
    at, held = place(first), HOLDERS[how](first)
    del first
    other = vectors.take(10)
    assert place(other) != at
    del held
    gc.collect()
    assert place(vectors.take(10)) == at


def test_a_vector_has_the_length_that_was_asked_for():
    vectors = Vectors()
    at = place(vectors.take(10))
    assert len(vectors.take(11)) == 11 and vectors.take(11).dtype == np.float32
    assert place(vectors.take(10)) == at


def test_of_too_many_in_use_the_oldest_are_left_to_their_users():
    vectors = Vectors()
    held = [vectors.take(4) for _ in range(MOST + 2)]
    places = [place(v) for v in held]
    assert len(set(places)) == MOST + 2
    held.clear()
    held += [vectors.take(4) for _ in range(MOST)]
    assert [place(v) for v in held] == places[2:]


def test_what_is_forgotten_stays_with_its_users():
    vectors = Vectors()
    held = vectors.take(4)
    held[:] = 7
    vectors.forget()
    vectors.take(4)[:] = 0
    assert held.tolist() == [7] * 4


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(sorted(HOLDERS))), max_size=40))
def test_nobodys_numbers_are_ever_overwritten(steps):
    """Everybody who holds a vector, or sees it in whatever way, finds the number that was written for it."""
    vectors, held = Vectors(), {}
    for number, (who, how) in enumerate(steps, 1):
        held.pop(who, None)
        vector = vectors.take(10)
        vector[:] = number
        held[who] = HOLDERS[how](vector), how, number
        del vector
        for view, how_, wanted in held.values():
            assert seen(view, how_) == wanted


def seen(view, how: str) -> float:
    match how:
        case "a list":
            return view[0][0]
        case "a function":
            return view()[0]
        case "another type":
            return view.view(np.float32)[0]
        case "the tensors of an update":
            return view.weights["b"][1, 2].item()
        case _:
            return np.asarray(view).flat[0]


def test_a_vector_is_of_the_kind_that_was_asked_for():
    vectors = Vectors()
    vectors.take(4)
    assert vectors.take(4, np.uint64).dtype == np.uint64
    assert vectors.take(4).dtype == np.float32
