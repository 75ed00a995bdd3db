"""A method as one file outside of the package: everything of the contract at once, through the harness, and without the file."""

import re
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.config import Experiment
from flexray.errors import ConfigError, RunError
from flexray.sim.planning.plan import prepare
from flexray.sim.pool import InlinePool
from flexray.sim.run import run
from flexray.sim.run_folder import RunFolder
from tests.test_laws import assert_same, weights

STEERED = '''
"""Steered: clients in clusters, each with a drift that steers its clients; long steps count for less."""
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, ServerState, State, Update
from flexray.state import Shapes, add, below, dot, select, sqdist, under


@dataclass(frozen=True)
class Steered(Algorithm):
    """Control variates as in SCAFFOLD beside an adapter of the client's own; updates longer than the median are weighed down."""

    each = True
    surveys = True
    strength: float = 0.5
    lora: Lora = Lora(rank=2)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora), Part("own", "lora", "private", self.lora))

    def check(self, experiment) -> tuple[str, ...]:
        return () if experiment.train.optimizer == "sgd" else ("strength: expected sgd, got adamw; set train.optimizer",)

    def up(self, shapes: Shapes) -> Payload:
        weights = select(shapes, {"lora"})
        return Payload(weights, {**under("drift", weights), "length": ()})

    def down(self, shapes: Shapes, cohort: int) -> Payload:
        weights = select(shapes, {"lora"})
        return Payload(weights, under("drift", weights))

    def survey(self, trainer: LocalTrainer) -> State:
        return {"busiest": next(iter(trainer.profile().values())).amax(1, keepdim=True)}

    def clusters(self, surveys: State) -> tuple[int, ...]:
        busiest = surveys["busiest"].flatten().tolist()
        return tuple(int(b > median(busiest)) for b in busiest)

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        return ClientState(trainer.fresh(self.private), under("drift", {n: t * 0 for n, t in sent.weights.items()}))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        others, own = below("drift", sent.aux), below("drift", mine.memory)
        steer = add(others, own, -1.0)
        after = trainer.fit(sent.weights | mine.weights, penalty=lambda now: self.strength * dot(now, steer))
        up, stays = self.divide(after)
        way = trainer.steps * trainer.lr
        new = {n: own[n] - others[n] + (t - up.weights[n]) / way.view(-1, *[1] * (t.dim() - 1)) for n, t in sent.weights.items()}
        told = under("drift", add(new, own, -1.0)) | {"length": sqdist(up.weights, sent.weights).sqrt()}
        return Update(up.weights, told), ClientState(stays.weights, under("drift", new))

    def combine(self, updates: Sequence[Update], shares: Sequence[float]) -> Update:
        lengths = [float(u.aux["length"]) for u in updates]
        counts = [p / max(1.0, length / median(lengths)) for p, length in zip(shares, lengths, strict=True)]
        mean = {n: sum(c * u.weights[n] for c, u in zip(counts, updates, strict=True)) / sum(counts) for n in updates[0].weights}
        drift = {n: sum(u.aux[n] for u in updates) / len(updates) for n in updates[0].aux if n != "length"}
        return Update(mean, drift)

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        rounds = state.kept.get("rounds", next(iter(mean.weights.values())).new_zeros(1)) + 1
        return ServerState(Update(mean.weights, add(state.sent.aux, mean.aux, share)), {"rounds": rounds})
'''

SETTINGS = {
    "rounds": 3, "clients": 4, "cohort": 3, "placement": "pooled",
    "train": {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "steered.py"
    path.write_text(STEERED)
    return path


@pytest.fixture(scope="module")
def straight(small, file, tmp_path_factory):
    return api.simulate(small(algorithm={"name": str(file)}, seats=2, **SETTINGS), tmp_path_factory.mktemp("own") / "run")


def test_it_runs_and_what_it_declares_is_what_crosses(straight, small, file, tmp_path):
    """Two clusters with states of their own; bytes by role, what was told before the first round among them."""
    server, last, _ = RunFolder(straight.path).load_server() or pytest.fail("no server")
    assert last == 2
    assert sorted(set(server.clusters)) == [0, 1]
    assert sum(float(state.kept["rounds"]) for state in server.states if "rounds" in state.kept) >= 3
    one, two = (state.sent.weights for state in server.states)
    assert all(not torch.equal(one[n], two[n]) for n in one if n.endswith("/b"))
    assert any(t.any() for state in server.states for t in state.sent.aux.values())
    job, _ = prepare(small(algorithm={"name": str(file)}, **SETTINGS), {"CPU": 4.0}, tmp_path)
    adapter = 4 * sum(t.numel() for t in one.values())
    roles = {(r["direction"], r["role"]): r["bytes"] for r in straight.bytes() if r["round"] == 0}
    assert roles == {
        ("up", "lora"): adapter, ("up", "drift"): adapter, ("up", "length"): 4,
        ("down", "lora"): adapter, ("down", "drift"): adapter,
    }  # fmt: skip
    assert {r["bytes"] for r in straight.bytes() if r["round"] == -1} == {4}
    assert job.up.bytes() == 2 * adapter + 4
    mean = straight.summary["mean"]
    assert len({mean[view]["loss"] for view in ("base", "shared", "personal")}) == 3


def test_whoever_sits_together_makes_no_difference(straight, small, file, tmp_path):
    alone = api.simulate(small(algorithm={"name": str(file)}, seats=1, **SETTINGS), tmp_path / "run")
    one, many = weights(straight.path), weights(alone.path)
    assert one.keys() == many.keys()
    for n, t in one.items():
        torch.testing.assert_close(many[n], t, rtol=2e-3, atol=1e-5, msg=n)


def test_on_ray_it_is_the_same_run(straight, small, file, ray_here, tmp_path):
    """Its class is known to no other process by its module: source text crosses, not the class."""
    run = api.simulate(
        small(algorithm={"name": str(file)}, seats=2, resources={"backend": "ray"}, **SETTINGS), tmp_path / "run"
    )
    assert_same(weights(straight.path), weights(run.path))


def test_a_run_goes_on_without_the_file(straight, small, tmp_path):
    """Stopped in round 1 after some of the clients, its file deleted: the same bytes as without the stop."""
    file = tmp_path / "steered.py"
    file.write_text(STEERED)
    x, out = small(algorithm={"name": str(file)}, seats=2, **SETTINGS), tmp_path / "run"

    class Dies(InlinePool):
        def play(self, work):
            for done in super().play(work):
                if work.round == 1:
                    raise KeyboardInterrupt
                yield done

    job, plan = prepare(x, {"CPU": 4.0}, out.absolute() / "private")
    api._open_folder(out, job, plan)
    with pytest.raises(KeyboardInterrupt):
        list(run(job, Dies, out))
    file.unlink()
    resumed = api.resume(out)
    assert_same(weights(straight.path), weights(out))
    assert resumed.bytes() == straight.bytes()
    assert resumed.summary["mean"] == straight.summary["mean"]


def test_its_own_check_speaks_by_its_own_keys(file):
    with pytest.raises(ConfigError, match=r"algorithm\.strength: expected sgd, got adamw; set train\.optimizer"):
        Experiment(algorithm={"name": str(file)})
    with pytest.raises(ConfigError, match=r"algorithm\.strenth: .*did you mean 'algorithm\.strength'"):
        Experiment(algorithm={"name": str(file), "strenth": 1}, train={"optimizer": "sgd"})


def test_what_is_not_declared_does_not_leave(small, tmp_path):
    """A method that sends its private adapter along is stopped, by name."""
    file = tmp_path / "leaky.py"
    file.write_text(STEERED.replace("return Update(up.weights, told)", "return Update(after, told)"))
    with pytest.raises(RunError, match=r"only what the method declares may leave a client.*own/"):
        api.simulate(small(algorithm={"name": str(file)}, **SETTINGS), tmp_path / "run")


def test_the_methods_of_the_docs_run(small, tmp_path):
    """Every file that docs/extending.md shows with a method in it."""
    text = (Path(__file__).parents[1] / "docs/extending.md").read_text()
    shown = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "(Algorithm)" in block]
    assert shown
    for i, block in enumerate(shown):
        (tmp_path / f"shown{i}.py").write_text(block)
        done = api.simulate(small(algorithm={"name": str(tmp_path / f"shown{i}.py")}, rounds=1), tmp_path / f"run{i}")
        server = load_file(done.path / "server.safetensors")
        assert all(t.any() for n, t in server.items() if n.endswith("/b"))


def test_the_partition_of_the_docs_deals(small, tmp_path):
    text = (Path(__file__).parents[1] / "docs/extending.md").read_text()
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "(Partition)" in block]
    (tmp_path / "shown.py").write_text(block)
    x = small(data={"partition": {"name": str(tmp_path / "shown.py"), "first": 1}})
    job, _ = prepare(x, {"CPU": 4.0}, tmp_path / "private")
    assert [c.name for c in job.clients] == ["client-0", "client-1", "client-2"]
    labels = [set(c.labels) for c in job.clients]
    assert all(not a & b for a, b in combinations(labels, 2))  # every label is at one client
