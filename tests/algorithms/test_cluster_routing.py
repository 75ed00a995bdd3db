"""Cluster routing: clients that use the experts alike are found, and averaged among themselves."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.algorithm import ServerState, Update
from flexray.algorithms.cluster_routing import ClusterRouting
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.parts import Lora
from flexray.sim.planning.plan import prepare
from flexray.sim.run_folder import RunFolder
from tests.algorithms.toy import ToyTrainer, play

B = "lora/s/b"

ALONE = '''
"""Every client keeps what it trains."""
from dataclasses import dataclass
from flexray.algorithm import Algorithm, Lora, Part

@dataclass(frozen=True)
class Alone(Algorithm):
    """Adapters that never travel."""
    lora: Lora = Lora()

    @property
    def parts(self):
        return (Part("lora", "lora", "private", self.lora),)

    def client(self, trainer, sent, mine):
        return self.divide(trainer.fit(mine.weights))
'''


def test_by_hand():
    """Two blocks of two experts. Clients 0 and 3 lean on the first expert of both, 1 and 2 on the second: clusters 0, 1, 1, 0.

    FedAvg within each, half of the way from 0, rows 1, 3, 1, 3: targets 4 and 8 give 2 and 4, mean 1/4·2 + 3/4·4 = 3.5
    (clients 0 and 3); targets 12 and 16 give 6 and 8, mean 3/4·6 + 1/4·8 = 6.5 (1 and 2).
    """
    algorithm = ClusterRouting(count=2, lora=Lora(rank=1))
    profiles = {
        "m": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.8, 0.2]]),
        "n": torch.tensor([[0.7, 0.3], [0.1, 0.9], [0.1, 0.9], [0.6, 0.4]]),
    }
    clusters = algorithm.clusters(profiles)
    assert clusters == (0, 1, 1, 0)
    rows, targets, means = [1, 3, 1, 3], [4.0, 12.0, 16.0, 8.0], []
    for cluster in range(2):

        def make(k, _):
            return ToyTrainer({B: torch.full((1, 1, 1), targets[k], dtype=torch.float64)}, torch.tensor([rows[k]]))

        state = ServerState(Update({B: torch.zeros(1, 1, dtype=torch.float64)}))
        members = [k for k in range(4) if clusters[k] == cluster]
        state = play(algorithm, state, make, {}, members, 0, rows, len(members), {B: (1, 1)})
        means.append(float(state.sent.weights[B]))
    assert means == [3.5, 6.5]


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found(seed):
    """Twelve clients around three profiles over 16 experts in three blocks, against the groups that they were made from."""
    rng = np.random.default_rng(seed)
    planted = rng.permutation([0, 1, 2] * 4)
    centres = {block: rng.dirichlet(np.ones(16) / 2, 3) for block in "mno"}
    told = {
        block: torch.tensor(np.stack([rng.dirichlet(200 * centre[g] + 0.1) for g in planted]))
        for block, centre in centres.items()
    }
    found = ClusterRouting(count=3).clusters(told)
    first = {g: i for i, g in enumerate(dict.fromkeys(planted.tolist()))}
    assert found == tuple(first[g] for g in planted.tolist()), "numbered by their first clients"


def test_wards_choice_against_a_plain_search():
    """Two clusters of five clients: of all merges by the smallest growth of squared distances to the means, done by hand."""
    points = np.random.default_rng(3).random((5, 4))
    groups = [[i] for i in range(5)]

    def spread(members):
        return ((points[members] - points[members].mean(0)) ** 2).sum()

    while len(groups) > 2:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
        i, j = min(pairs, key=lambda p: spread(groups[p[0]] + groups[p[1]]) - spread(groups[p[0]]) - spread(groups[p[1]]))
        groups[j] += groups.pop(i)
    found = ClusterRouting(count=2).clusters({"m": torch.tensor(points)})
    assert {frozenset(i for i in range(5) if found[i] == c) for c in range(2)} == {frozenset(g) for g in groups}


@pytest.mark.parametrize(("count", "clients", "found"), [(1, 3, (0, 0, 0)), (3, 3, (0, 1, 2)), (1, 1, (0,))])
def test_one_cluster_and_one_for_each(count, clients, found):
    assert ClusterRouting(count=count).clusters({"m": torch.eye(clients)}) == found


def test_clients_that_are_the_same_share_a_cluster():
    assert ClusterRouting(count=2).clusters({"m": torch.tensor([[1.0, 0], [0, 1], [1, 0]])}) == (0, 1, 0)


@pytest.mark.parametrize(("count", "clients"), [(0, 4), (5, 4)])
def test_counts_outside_are_refused(count, clients):
    with pytest.raises(ConfigError, match=rf"algorithm\.count: expected 1 to {clients} clients, got {count}"):
        Experiment(clients=clients, algorithm={"name": "cluster_routing", "count": count})


def test_on_the_model_each_cluster_has_the_mean_of_its_own(small, tmp_path):
    """One round: the server's states against the row-weighted means of what the clients get when they train for themselves."""
    (tmp_path / "alone.py").write_text(ALONE)
    settings = {"rounds": 1, "clients": 4, "data": {"max_train_rows": 12}}
    alone = api.simulate(small(algorithm={"name": str(tmp_path / "alone.py")}, **settings), tmp_path / "alone")
    x = small(algorithm={"name": "cluster_routing", "count": 2}, **settings)
    run = api.simulate(x, tmp_path / "run")
    own = [load_file(sorted(c.glob("*"))[-1]) for c in sorted((alone.path / "private").iterdir())]
    server, *_ = RunFolder(run.path).load_server() or pytest.fail("no server")
    job, _ = prepare(x, {"CPU": 4.0}, tmp_path)
    rows = [len(c.train) for c in job.clients]
    assert sorted(set(server.clusters)) == [0, 1]
    for cluster, state in server.numbered():
        members = [k for k in range(4) if server.clusters[k] == cluster]
        for name, t in state.sent.weights.items():
            mean = sum(rows[k] * own[k][f"weights|{name}"] for k in members) / sum(rows[k] for k in members)
            torch.testing.assert_close(t, mean)


def test_what_is_told_is_counted(small, tmp_path):
    """Four bytes for every number of every profile, once."""
    run = api.simulate(small(algorithm={"name": "cluster_routing"}, rounds=1), tmp_path / "run")
    told = [r for r in run.bytes() if r["round"] == -1]
    assert {r["client"] for r in told} == {0, 1, 2}
    job, _ = prepare(small(algorithm={"name": "fedmoe"}), {"CPU": 4.0}, tmp_path)
    experts = {n.split("/")[1]: s[0] for n, s in job.shapes.items() if n.startswith("experts/")}
    assert {r["bytes"] for r in told} == {4 * sum(experts.values())}
