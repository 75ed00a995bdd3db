"""flex_validated: what is shared is FedAvg's, what is private is served as far as valid rows bear it out."""

import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.algorithms.flex_validated import FlexValidated
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.state import ClientState, Update
from tests.algorithms.toy import ToyTrainer


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def trainer(round: int, valid: float) -> ToyTrainer:
    """One client: train rows want every number at 8, valid rows want the private ones at `valid`; a step goes half of the way."""
    names = ("lora/q/b", "expert/mlp/down", "gate/mlp/weight")
    targets = {name: one(8.0) for name in names}
    made = ToyTrainer(targets, torch.tensor([4]), round=round, valid_targets={**targets, "expert/mlp/down": one(valid)})
    made.valid_targets["gate/mlp/weight"] = one(8.0)
    return made


def test_the_private_parts_with_the_lowest_valid_loss_are_kept_by_hand():
    """The expert goes 0 → 4 → 6 → 7 in three rounds, the gate with it; the adapters come as 0 each time.

    Valid rows want the expert at 4 and the gate at 8. Their losses: round 0, ½(0 + 4²) = 8 from the gate; round 1,
    ½(2² + 2²) = 4; round 2, ½(3² + 1²) = 5 (the adapters' ½·8² is the same in all): so round 1's are kept.
    """
    method, sent = FlexValidated(), Update({"lora/q/b": one(0.0)})
    first = trainer(0, 4.0)
    first.start = {"expert/mlp/down": one(0.0)[0], "gate/mlp/weight": one(0.0)[0]}
    mine = method.start(first, sent)
    for round in range(3):
        up, mine = method.client(trainer(round, 4.0), sent, mine)
        assert up.weights["lora/q/b"].item() == 4.0  # FedAvg's own step, whatever the private parts do
    assert mine.weights["expert/mlp/down"].item() == 7.0
    assert mine.memory["expert/mlp/down"].item() == 6.0 and mine.memory["gate/mlp/weight"].item() == 6.0
    assert mine.memory["lowest"].item() == 0.5 * 8**2 + 4


def test_what_is_served_is_scaled_to_what_valid_rows_like_best():
    """The kept expert is 6, valid rows want 3: strength 0.5. The adapters are 4, valid rows want 8: all of them."""
    mine = ClientState({}, {"expert/mlp/down": one(6.0), "gate/mlp/weight": one(6.0), "lowest": torch.zeros(1)})
    served = FlexValidated().personal(trainer(0, 3.0), Update({"lora/q/b": one(4.0)}), mine)
    assert served["expert/mlp/down"].item() == 3.0 and served["lora/q/b"].item() == 4.0


def test_what_is_shared_is_fedavg_to_the_bit(small, tmp_path):
    sent = {}
    for name in ("fedavg", "flex_validated"):
        run = api.simulate(small(algorithm={"name": name}), tmp_path / name)
        sent[name] = {n: t for n, t in load_file(run.path / "server.safetensors").items() if "|" in n}
    assert sent["fedavg"].keys() == sent["flex_validated"].keys()
    assert all(torch.equal(t, sent["flex_validated"][n]) for n, t in sent["fedavg"].items())


def test_on_the_rows_that_it_chooses_by_it_is_never_worse_than_base_or_fedavg(small, tmp_path):
    settings = {"evaluation": {"split": "valid", "metrics": ["loss"]}, "train": {"lr": 0.1, "final_lr": 0.1, "steps": 4}}
    run = api.simulate(small(algorithm={"name": "flex_validated"}, **settings), tmp_path / "run")
    for client in run.summary["clients"]:
        assert client["personal"]["loss"] <= min(client["base"]["loss"], client["shared"]["loss"]) + 1e-5


def test_newcomers_sit_beside_clients_that_have_played(small, tmp_path):
    """A partial cohort in groups of two: the kept parts of either are as if it had sat alone."""
    settings = {"cohort": 2, "placement": "pooled", "rounds": 3, "train": {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1}}
    losses = [
        [c["personal"]["loss"] for c in api.simulate(
            small(algorithm={"name": "flex_validated"}, seats=seats, **settings), tmp_path / str(seats)
        ).summary["clients"]]
        for seats in (1, 2)
    ]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_copy_has_no_strength_at_which_it_is_the_frozen_model():
    with pytest.raises(ConfigError, match=r"algorithm\.graft\.start: expected identity with flex_validated, got 'copy'"):
        Experiment(algorithm={"name": "flex_validated", "graft": {"start": "copy"}})
