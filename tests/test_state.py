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


def test_dot_per_seat():
    # seat 0: 1·2 + 2·0 + 3·(−1) = −1; seat 1: 0. Only names in y count.
    x = {"a": torch.tensor([[1.0, 2.0], [0.0, 5.0]]), "b": torch.tensor([[3.0], [0.0]]), "c": torch.ones(2, 1)}
    y = {"a": torch.tensor([[2.0, 0.0], [4.0, 0.0]]), "b": torch.tensor([[-1.0], [7.0]])}
    assert state.dot(x, y).tolist() == [-1.0, 0.0]


def test_the_gradients_of_dot_and_square_distance_are_what_penalties_rely_on():
    # ∇⟨w, c⟩ = c and ∇½‖w − θ‖² = w − θ, each seat's own.
    w, c = torch.tensor([[1.0], [2.0]], requires_grad=True), torch.tensor([[5.0], [-3.0]])
    assert torch.autograd.grad(state.dot({"w": w}, {"w": c}).sum(), w)[0].tolist() == [[5.0], [-3.0]]
    assert torch.autograd.grad(state.sqdist({"w": w}, {"w": c}).sum() / 2, w)[0].tolist() == [[-4.0], [5.0]]


def test_adding_goes_by_the_names_of_the_first():
    assert set(state.add({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)})) == {"a"}
    assert X["lora/q/a"].tolist() == [1.0, 2.0], "nothing is changed in place"


def test_names_move_to_another_part_and_under_a_prefix():
    assert set(state.renamed(state.select(X, ["lora"]), "own")) == {"own/q/a"}
    both = state.under("m", X) | state.under("v", Y)
    assert set(both) == {"m/lora/q/a", "m/expert/m/down", "v/lora/q/a", "v/expert/m/down"}
    assert state.below("m", both) == X and state.below("v", both) == Y and state.below("w", both) == {}
    assert state.part_of("m/lora/q/a") == "m"
