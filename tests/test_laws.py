"""The laws of the house, over everything in the folders, on runs from start to end."""

import pickle
from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexray import api, folder
from flexray.config import Experiment
from flexray.models import backbone as backbones
from flexray.sim.plan import prepare
from flexray.sim.round import Fold, InlinePool
from flexray.sim.run import RoundDone, run
from flexray.sim.store import PrivateStore

ALGORITHMS = sorted(folder.listing("algorithms"))
CPU4 = {"CPU": 4.0}


def weights(path) -> dict[str, torch.Tensor]:
    """All tensors that a run left behind: the server's, and every client's newest private state."""
    found = {f"server/{n}": t for n, t in load_file(path / "server.safetensors").items()}
    for client in sorted((path / "private").glob("*")):
        newest = sorted(client.glob("*.safetensors"))[-1]
        found |= {f"{client.name}/{n}": t for n, t in load_file(newest).items()}
    return found


def assert_same(x, y) -> None:
    assert x.keys() == y.keys()
    for name, t in x.items():
        assert torch.equal(t, y[name]), name


@pytest.fixture(scope="module")
def flex_run(small, tmp_path_factory):
    return api.simulate(small(rounds=3), tmp_path_factory.mktemp("flex") / "run")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_runs_and_changes_all_that_it_trains(small, tmp_path, name):
    x = small(algorithm={"name": name}, rounds=1)
    api.simulate(x, tmp_path / "run")
    after = weights(tmp_path / "run")
    job, _ = prepare(x, CPU4, tmp_path)
    started = {k.split("|")[-1] for k in after}
    assert started == {n for n in job.shapes}
    for name_, tensor in after.items():
        if name_.endswith("/b"):
            assert tensor.abs().sum() > 0, f"{name_} was never trained"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_only_shared_parts_reach_the_server(small, tmp_path, name):
    x = small(algorithm={"name": name}, rounds=1)
    api.simulate(x, tmp_path / "run")
    parts = {p.name for p in x.algorithm.shared}
    sent = load_file(tmp_path / "run" / "server.safetensors")
    assert {n.split("|")[1].split("/")[0] for n in sent} == parts


def test_no_private_tensor_is_in_anything_that_a_pool_returns(small, tmp_path):
    """The bytes that come back from hosts, searched for the bytes of every private tensor at rest."""
    returned = []

    class Spy(InlinePool):
        def train(self, task):
            for result in super().train(task):
                returned.append(pickle.dumps(result))
                yield result

        def evaluate(self, exam):
            for scores in super().evaluate(exam):
                returned.append(pickle.dumps(scores))
                yield scores

    job, _ = prepare(small(rounds=1, cohort=1), CPU4, tmp_path / "private")  # a sum of one: its own bytes
    (tmp_path / "run").mkdir()
    list(run(job, Spy, tmp_path / "run"))
    crossed = b"".join(returned)
    sent = load_file(tmp_path / "run" / "server.safetensors")
    assert len(returned) > 3
    private = [
        t for f in (tmp_path / "private").rglob("*.safetensors") for t in load_file(f).values() if t.numel() > 8 and t.any()
    ]
    assert private
    assert not any(t.numpy().tobytes()[:64] in crossed for t in private)
    assert all(t.numpy().tobytes() in crossed for t in sent.values()), "the search finds what does cross"


def test_fedprox_without_mu_is_fedavg(small, tmp_path):
    api.simulate(small(algorithm={"name": "fedavg"}), tmp_path / "a")
    api.simulate(small(algorithm={"name": "fedprox", "mu": 0}), tmp_path / "b")
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_fedprox_holds_clients_near_the_server(small, tmp_path):
    def moved(mu: float) -> float:
        path = tmp_path / f"mu{mu}"
        api.simulate(
            small(algorithm={"name": "fedprox", "mu": mu}, rounds=1, train={"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1}),
            path,
        )
        return sum(t.square().sum().item() for n, t in weights(path).items() if n.endswith("/b"))

    assert moved(10.0) < moved(0.0)


def test_the_same_seed_gives_the_same_bytes(flex_run, small, tmp_path):
    api.simulate(small(rounds=3), tmp_path / "again")
    assert_same(weights(flex_run.path), weights(tmp_path / "again"))


def test_another_seed_gives_other_bytes(flex_run, small, tmp_path):
    api.simulate(small(rounds=1, seed=1), tmp_path / "other")
    assert not torch.equal(next(iter(weights(tmp_path / "other").values())), next(iter(weights(flex_run.path).values())))


def test_resumed_is_uninterrupted(flex_run, small, tmp_path):
    """Stopped in the middle of round 1: private states of that round are written, its server state is not."""
    x = small(rounds=3)
    out = tmp_path / "run"

    class Dies(InlinePool):
        def train(self, task):
            for i, result in enumerate(super().train(task)):
                if task.round == 1 and i == 1:
                    raise KeyboardInterrupt
                yield result

    job, plan = prepare(x, CPU4, out.absolute() / "private")
    api._open_folder(out, job, plan)
    with pytest.raises(KeyboardInterrupt):
        list(run(job, Dies, out))
    assert PrivateStore(job.private, [c.name for c in job.clients]).load(0, 9) is not None
    resumed = api.resume(out)
    assert_same(weights(flex_run.path), weights(out))
    assert resumed.clients() == flex_run.clients()
    assert [r["loss"] for r in resumed.rounds()] == [r["loss"] for r in flex_run.rounds()]


@pytest.mark.parametrize("seats", [2, 3])
def test_seats_change_nothing_but_rounding(small, tmp_path, seats):
    """Three clients in groups of 1, of 2 (ragged) and of 3. Plain SGD: Adam's first steps would turn rounding into signs."""
    train = {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1, "steps": 2, "batch": 2}
    settings = {"train": train, "placement": "pooled", "rounds": 1}
    api.simulate(small(**settings, seats=1), tmp_path / "one")
    api.simulate(small(**settings, seats=seats), tmp_path / "many")
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert one.keys() == many.keys()
    for name, t in one.items():
        torch.testing.assert_close(many[name], t, rtol=1e-4, atol=1e-6, msg=name)


def test_frozen_weights_are_bit_identical_after_training(small, tmp_path):
    job, _ = prepare(small(rounds=1), CPU4, tmp_path / "private")
    before = {n: t.clone() for n, t in backbones.load(job.backbone).model.state_dict().items()}
    (tmp_path / "run").mkdir()
    pools = []

    def keep(job):
        pools.append(InlinePool(job))
        return pools[0]

    list(run(job, keep, tmp_path / "run"))
    after = pools[0].host.backbone.model.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    assert all(not p.requires_grad and p.grad is None for p in pools[0].host.backbone.model.parameters())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_fold_does_not_mind_the_order_of_arrival(order):
    vectors = [np.array([1e8, 1.0], np.float32), np.array([1.0, 1e-8], np.float32), np.array([-1e8, 1.0], np.float32)]
    fold, straight = Fold(2, 3), Fold(2, 3)
    for i in order:
        fold.add(i, vectors[i])
    for i in range(3):
        straight.add(i, vectors[i])
    assert fold.result.tobytes() == straight.result.tobytes()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("partition", ["column", "iid"])
def test_the_config_round_trips(name, partition):
    extra = {"column": "client"} if partition == "column" else {}
    x = Experiment(algorithm={"name": name}, data={"partition": {"name": partition, **extra}})
    assert Experiment(**x.spec()) == x


@pytest.mark.parametrize("settings", [{"cpu_per_client": 2}, {"cpu_per_client": 1}, {"cpu_per_client": 4}], ids=str)
def test_ray_gives_the_same_bytes_as_inline_with_any_number_of_actors(ray_here, flex_run, small, tmp_path, settings):
    """2, 3 and 1 actors."""
    events = []
    api.simulate(small(rounds=3, resources={"backend": "ray", **settings}), tmp_path / "run", watch=events.append)
    assert_same(weights(flex_run.path), weights(tmp_path / "run"))
    assert sum(isinstance(e, RoundDone) for e in events) == 3
