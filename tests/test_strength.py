"""Strengths are chosen per client, by valid loss, and scale factors only."""

import torch

from flexray.strength import validated


class ValidLoss:
    """A trainer whose valid loss is (served down − best_k)² + (served b − shared_best_k)² for client k."""

    def __init__(self, best: list[float], shared_best: list[float]):
        self.best, self.shared_best = torch.tensor(best), torch.tensor(shared_best)
        self.lr = torch.ones(len(best))
        self.asked = 0

    def loss(self, weights, *, split="valid"):
        self.asked += 1
        assert split == "valid"
        return (weights["expert/mlp/down"][:, 0] - self.best) ** 2 + (weights["lora/q/b"][:, 0] - self.shared_best) ** 2


def weights(seats: int) -> dict[str, torch.Tensor]:
    names = ("lora/q/a", "lora/q/b", "expert/mlp/gate_up", "expert/mlp/down", "gate/mlp/weight")
    return {name: torch.full((seats, 1), 4.0) for name in names} | {
        "expert/mlp/index": torch.zeros(seats, 1, dtype=torch.int64)
    }


def test_every_client_gets_the_strengths_that_suit_its_valid_rows():
    """What was trained is 4 throughout. Client 0 wants all of it (4 = 1·4), client 1 wants 1.9, nearest 0.5·4 = 2, client 2 nothing."""
    trainer = ValidLoss(best=[4.0, 1.9, -3.0], shared_best=[0.0, 4.0, 1.0])
    served = validated(trainer, weights(3), frozenset({"expert", "gate"}))
    assert served["expert/mlp/down"][:, 0].tolist() == [4.0, 2.0, 0.0]
    assert served["lora/q/b"][:, 0].tolist() == [0.0, 4.0, 1.0]
    assert trainer.asked == 10  # in full, four more strengths of what is private, four of the rest, and nothing at all


def test_only_factors_are_scaled():
    served = validated(ValidLoss([0.0], [0.0]), weights(1), frozenset({"expert", "gate"}))
    for name in ("lora/q/a", "expert/mlp/gate_up", "gate/mlp/weight", "expert/mlp/index"):
        assert torch.equal(served[name], weights(1)[name])


def test_of_equal_losses_what_was_trained_is_kept():
    class Flat(ValidLoss):
        def loss(self, weights, *, split="valid"):
            return torch.zeros(1)

    assert validated(Flat([0.0], [0.0]), weights(1), frozenset({"expert"}))["expert/mlp/down"].item() == 4.0
