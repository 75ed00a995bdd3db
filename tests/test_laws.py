"""The laws of the house, over everything in the folders, on runs from start to end."""

import pickle
from itertools import permutations
from math import prod

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexray import api, folder
from flexray.config import Experiment
from flexray.models import backbone as backbones
from flexray.sim.events import RoundDone
from flexray.sim.fold import Fold
from flexray.sim.planning.plan import prepare
from flexray.sim.pool import InlinePool
from flexray.sim.run import run
from flexray.sim.vectors import Vectors

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


SETTINGS = {"pfedme": {"inner": 1}}
"""What a method needs with the few steps of these tests."""


def method(name: str) -> dict:
    return {"name": name, **SETTINGS.get(name, {})}


def server(path) -> dict[str, set[str]]:
    """Names of what the server keeps, by what it is: weights and aux, which travel, and kept, which does not."""
    names = [n.split("|") for n in load_file(path / "server.safetensors") if "|" in n]
    return {kind: {n for tag, n in names if tag.rstrip("0123456789") == kind} for kind in ("weights", "aux", "kept")}


def private(path) -> dict[str, torch.Tensor]:
    """Private weights of all clients, newest state: client/name to value; what methods remember besides is left out."""
    found = {k: t for k, t in weights(path).items() if not k.startswith("server/")}
    return {k.replace("weights|", ""): t for k, t in found.items() if "/weights|" in k}


@pytest.fixture(scope="module")
def flex_run(small, tmp_path_factory):
    return api.simulate(small(rounds=3), tmp_path_factory.mktemp("flex") / "run")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_runs_and_changes_all_that_it_trains(small, tmp_path, name):
    """Two rounds; what crosses and what stays is what the method declares, and every B, which starts at zero, has moved."""
    x = small(algorithm=method(name), rounds=2)
    run = api.simulate(x, tmp_path / "run")
    job, _ = prepare(x, CPU4, tmp_path)
    down, own = job.down.payload, {p.name for p in x.algorithm.private}
    assert server(run.path)["weights"] == set(down.weights) and server(run.path)["aux"] == set(down.aux)
    stays = private(run.path)
    assert {k.split("/", 1)[1] for k in stays} == {n for n in job.shapes if n.split("/")[0] in own}
    after = stays | load_file(run.path / "server.safetensors")
    moved = {n: t for n, t in after.items() if n.endswith("/b")}
    assert moved or name == "central"
    assert all(t.abs().sum() > 0 for t in moved.values()), [n for n, t in moved.items() if not t.any()]
    assert run.summary["mean"]["personal"]["loss"] != run.summary["mean"]["base"]["loss"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_seat_is_as_if_alone(small, tmp_path, name):
    """Three clients one by one, and in groups of two and one. Plain SGD: Adam's first steps turn rounding into signs."""
    train = {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1, "steps": 2, "batch": 2}
    settings = {"algorithm": method(name), "train": train, "placement": "pooled", "rounds": 1, "clients": 3}
    results = []
    for seats in (1, 2):
        run = api.simulate(small(**settings, seats=seats), tmp_path / str(seats))
        results.append((weights(run.path), run.summary["mean"]["personal"]["loss"]))
    (one, loss), (many, loss_of_many) = results
    assert one.keys() == many.keys()
    for n, t in one.items():
        torch.testing.assert_close(many[n], t, rtol=1e-3, atol=2e-6, msg=n)
    assert loss_of_many == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_ledger_counts_what_is_declared(small, tmp_path, name):
    """Every client, every round: four bytes for every number of the payload, by role."""
    x = small(algorithm=method(name), rounds=1, clients=2)
    run = api.simulate(x, tmp_path / "run")
    job, _ = prepare(x, CPU4, tmp_path)
    for direction, wire in (("up", job.up), ("down", job.down)):
        rows = [r for r in run.bytes() if r["direction"] == direction and r["round"] == 0]
        counted = {c: {r["role"]: r["bytes"] for r in rows if r["client"] == c} for c in {r["client"] for r in rows}}
        numbers = {**wire.payload.weights, **wire.payload.aux}
        assert all(sum(roles.values()) == 4 * sum(map(prod, numbers.values())) for roles in counted.values())
        assert counted or not numbers
        assert run.summary["bytes"][direction] >= sum(r["bytes"] for r in rows)


def test_no_private_tensor_is_in_anything_that_a_pool_returns(small, tmp_path):
    """The bytes that come back from hosts, searched for the bytes of every private tensor at rest."""
    returned = []

    class Spy(InlinePool):
        def play(self, work):
            for done in super().play(work):
                returned.append(pickle.dumps(done))
                yield done

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


@pytest.mark.parametrize("name", ["flex", "pfedme"])
def test_scoring_leaves_no_trace(small, tmp_path, name):
    """Not even of clients that train later for the first time, and start with what the server then sends (pFedMe)."""
    for every in (1, None):
        x = small(algorithm=method(name), rounds=3, cohort=1, evaluation={"every": every})
        api.simulate(x, tmp_path / f"{every}")
    assert_same(weights(tmp_path / "1"), weights(tmp_path / "None"))


def test_another_seed_gives_other_bytes(flex_run, small, tmp_path):
    api.simulate(small(rounds=1, seed=1), tmp_path / "other")
    assert not torch.equal(next(iter(weights(tmp_path / "other").values())), next(iter(weights(flex_run.path).values())))


@pytest.mark.parametrize("name", ["flex", "scaffold", "fedalt", "flora", "cluster_routing", "fedadam"])
def test_resumed_is_uninterrupted(small, tmp_path, name):
    """Stopped in the middle of round 1: private states of that round are written, its server state is not."""
    x = small(rounds=3, algorithm=method(name))
    straight, out = api.simulate(x, tmp_path / "straight"), tmp_path / "run"

    class Dies(InlinePool):
        def play(self, work):
            for i, done in enumerate(super().play(work)):
                if work.round == 1 and i == 1:
                    raise KeyboardInterrupt
                yield done

    job, plan = prepare(x, CPU4, out.absolute() / "private")
    api._open_folder(out, job, plan)
    with pytest.raises(KeyboardInterrupt):
        list(run(job, Dies, out))
    resumed = api.resume(out)
    assert_same(weights(straight.path), weights(out))
    assert resumed.clients() == straight.clients()
    assert resumed.bytes() == straight.bytes()
    assert [r["loss"] for r in resumed.rounds()] == [r["loss"] for r in straight.rounds()]


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


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_fold_does_not_mind_the_order_of_arrival(order):
    vectors = np.array([[1e8, 1.0], [1.0, 1e-8], [-1e8, 1.0], [3.0, 1e-8]], np.float32)
    fold = Fold(4, Vectors())
    for i in order:
        fold.add(vectors[i].copy(), i, i + 1)
    # (x0 + x1) + (x2 + x3), each sum rounded to float32
    assert fold.result.tobytes() == ((vectors[0] + vectors[1]) + (vectors[2] + vectors[3])).tobytes()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("partition", ["column", "iid"])
def test_the_config_round_trips(name, partition):
    extra = {"column": "client"} if partition == "column" else {}
    x = Experiment(algorithm={"name": name}, data={"partition": {"name": partition, **extra}})
    assert Experiment(**x.spec()) == x


@pytest.mark.parametrize("settings", [{"cpu_per_client": 2}, {"cpu_per_client": 1}, {"cpu_per_client": 4}], ids=str)
def test_ray_gives_the_same_bytes_as_inline_with_any_number_of_actors(ray_here, flex_run, small, tmp_path, settings):
    """2, 3 and 1 actors, at equal seats."""
    events = []
    api.simulate(small(rounds=3, seats=1, resources={"backend": "ray", **settings}), tmp_path / "run", watch=events.append)
    assert_same(weights(flex_run.path), weights(tmp_path / "run"))
    assert sum(isinstance(e, RoundDone) for e in events) == 3


@pytest.mark.parametrize("name", ["flora", "cluster_routing", "scaffold"])
def test_ray_carries_single_updates_clusters_and_auxiliary_state(ray_here, small, tmp_path, name):
    api.simulate(small(algorithm=method(name)), tmp_path / "inline")
    api.simulate(small(algorithm=method(name), resources={"backend": "ray", "cpu_per_client": 2}), tmp_path / "ray")
    assert_same(weights(tmp_path / "inline"), weights(tmp_path / "ray"))
