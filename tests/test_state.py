"""The algebra of named tensors, by hand."""

import torch

from flexray import state

X = {"lora/q/a": torch.tensor([1.0, 2.0]), "expert/m/down": torch.tensor([3.0])}
Y = {"lora/q/a": torch.tensor([10.0, 10.0]), "expert/m/down": torch.tensor([0.0])}


def test_add_and_scale():
    # [1, 2] + 0.5 · [10, 10] = [6, 7]
    assert state.add(X, Y, 0.5)["lora/q/a"].tolist() == [6.0, 7.0]
    assert state.scaled(X, 3)["expert/m/down"].tolist() == [9.0]


def test_select_by_part():
    assert state.part_of("lora/q/a") == "lora"
    assert list(state.select(X, ["expert"])) == ["expert/m/down"]


def test_square_distance_per_seat():
    # seat 0: 1² + 2² + 1² = 6; seat 1: 0. Names only in x and whole numbers in y do not count.
    x = {"a": torch.tensor([[1.0, 2.0], [0.0, 0.0]]), "b": torch.tensor([[[1.0]], [[0.0]]]), "c": torch.ones(2, 1)}
    y = {"a": torch.zeros(2, 2), "b": torch.zeros(2, 1, 1), "i": torch.zeros(2, 1, dtype=torch.int64)}
    assert state.sqdist(x, y).tolist() == [6.0, 0.0]


def test_widening_gives_every_seat_the_same():
    wide = state.widen(X, 3)
    assert wide["lora/q/a"].shape == (3, 2)
    assert torch.equal(state.seat(wide, 2)["lora/q/a"], X["lora/q/a"])
