"""Laws between methods, on the real harness: what must be the same to the bit, what to rounding, and what must differ."""

import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.sim.host import ClientHost
from flexray.sim.planning.plan import prepare

State = dict[str, torch.Tensor]
CPU4 = {"CPU": 4.0}


@pytest.fixture(scope="module")
def played(small, tmp_path_factory):
    """Runs a method once, whoever asks: played(name, clients=3, rounds=2, **settings of the method)."""
    done = {}

    def play(name: str, rounds: int = 2, clients: int = 3, more: dict | None = None, **settings) -> api.Run:
        key = str((name, rounds, clients, more, settings))
        if key not in done:
            x = small(algorithm={"name": name, **settings}, rounds=rounds, clients=clients, **(more or {}))
            done[key] = api.simulate(x, tmp_path_factory.mktemp(name) / "run")
        return done[key]

    return play


def sent(run: api.Run, part: str = "lora") -> State:
    """What of a part the server would send next, by name without the part's."""
    found = {n.split("|")[1]: t for n, t in load_file(run.path / "server.safetensors").items() if n.startswith("weights")}
    return {n.split("/", 1)[1]: t for n, t in found.items() if n.startswith(f"{part}/")}


def owned(run: api.Run, part: str) -> dict[str, State]:
    """Every client's newest values of a private part."""
    newest = {c.name: sorted(c.glob("*.safetensors"))[-1] for c in sorted((run.path / "private").glob("*"))}
    states = {c: {n.removeprefix("weights|"): t for n, t in load_file(f).items()} for c, f in newest.items()}
    return {c: {n.split("/", 1)[1]: t for n, t in s.items() if n.startswith(f"{part}/")} for c, s in states.items()}


def assert_same(x: State, y: State) -> None:
    assert x and x.keys() == y.keys()
    assert all(torch.equal(t, y[n]) for n, t in x.items())


def assert_near(x: State, y: State) -> None:
    """To a few roundings of float32."""
    assert x and x.keys() == y.keys()
    for n, t in x.items():
        torch.testing.assert_close(t, y[n], rtol=2e-6, atol=2e-8)


def test_scaffolds_first_round_is_fedavg(played):
    """Control variates are zero at first."""
    assert_same(sent(played("scaffold", rounds=1)), sent(played("fedavg", rounds=1)))


def test_dittos_shared_part_is_fedavg(played):
    assert_same(sent(played("ditto")), sent(played("fedavg")))


def test_dittos_own_part_does_not_depend_on_when_it_was_looked_at(played):
    """With one client a round, the others join later: whether they were scored before must not say where they start."""
    everybody, some = ({"cohort": 1, "evaluation": {"clients": who}} for who in ("all", "cohort"))
    x, y = (owned(played("ditto", rounds=3, more=more), "own") for more in (everybody, some))
    assert x.keys() == y.keys()
    for client, state in x.items():
        assert_same(state, y[client])


def test_a_server_momentum_of_zero_is_fedavg(played):
    """θ + (mean − θ) is the mean, but for rounding; in round 1, local steps (SGD: no signs of rounding) start from that."""
    sgd = {"train": {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1}}
    fedavg = sent(played("fedavg", more=sgd))
    assert_near(sent(played("fedavgm", beta=0, lr=1, more=sgd)), fedavg)
    assert_near(sent(played("diloco", momentum=0, lr=1, more=sgd)), fedavg)


def test_server_momentum_starts_in_the_second_round(played):
    """v = Δ in the first round."""
    assert_near(sent(played("fedavgm", rounds=1)), sent(played("fedavg", rounds=1)))
    one, two = sent(played("fedavgm")), sent(played("fedavg"))
    assert any((t - two[n]).abs().max() > 1e-5 for n, t in one.items())


def test_fedper_is_flex(played):
    graft = {"calibration_rows": 4}
    x, y = played("fedper", graft=graft), played("flex", graft=graft)
    assert_same(sent(x), sent(y))
    for part in ("expert", "gate"):
        for client, state in owned(x, part).items():
            assert_same(state, owned(y, part)[client])
    assert x.summary["mean"] == y.summary["mean"]


def test_fedavg_of_one_client_is_local_steps(played, small, tmp_path):
    """The harness's rounds against local training called by hand, round after round, from what the run's seed gives."""
    x = small(algorithm={"name": "fedavg"}, clients=1)
    job, _ = prepare(x, CPU4, tmp_path / "private")
    host = ClientHost(job)
    try:
        weights = {n: t[None] for n, t in job.down.unpack(host.open()).weights.items()}
        for round in range(2):
            weights = {n: t.clone() for n, t in host._trainer((0,), round).fit(weights).items()}
    finally:
        assert host.seats is not None
        host.seats.detach()
    assert_same({n.split("/", 1)[1]: t[0] for n, t in weights.items()}, sent(played("fedavg", clients=1)))


def test_of_one_client_everything_is_fedavg(played):
    """Its mean and its median are its own, and adapters that stay at home are trained as those that travel."""
    fedavg = sent(played("fedavg", clients=1))
    assert_same(sent(played("fedavg", clients=1, aggregate={"rule": "median"})), fedavg)
    (alone,) = owned(played("local", clients=1, gate={"mode": "off"}), "lora").values()
    assert_same(alone, fedavg)


def test_one_clients_rows_in_one_place_are_fedavg(played):
    """Central draws batches of its own; where every step sees all rows, only their order differs, which is rounding."""
    all_rows = {"train": {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1, "batch": 12}}
    assert_near(sent(played("central", clients=1, more=all_rows)), sent(played("fedavg", clients=1, more=all_rows)))


def test_fedavg_is_the_mean_of_what_clients_do_alone_by_their_rows(played, small, tmp_path):
    """A round of local with adapters only, averaged here with p_k, over clients of very unequal size."""
    more = {"data": {"max_train_rows": 300, "partition": {"name": "dirichlet_sizes"}}}
    alone = owned(played("local", rounds=1, more=more, gate={"mode": "off"}), "lora")
    job, _ = prepare(small(algorithm={"name": "fedavg"}, **more), CPU4, tmp_path)
    rows = [len(client.train) for client in job.trainees]
    assert len(rows) == len(alone) and max(rows) > 5 * min(rows)
    mean = {n: torch.zeros_like(t) for n, t in sent(played("fedavg", rounds=1, more=more)).items()}
    for count, state in zip(rows, alone.values(), strict=True):
        mean = {n: t + count / sum(rows) * state[n] for n, t in mean.items()}
    assert_near(mean, sent(played("fedavg", rounds=1, more=more)))


def test_tuning_serves_another_model_and_sends_the_same(played):
    """`personal` with tuning is better on what it was tuned to: its scores differ; the shared state is fedavg's, to the bit."""
    plain, tuned = played("fedavg"), played("fedavg", tuning=3)
    assert_same(sent(tuned), sent(plain))
    assert tuned.summary["mean"]["shared"] == plain.summary["mean"]["shared"] == plain.summary["mean"]["personal"]
    assert tuned.summary["mean"]["personal"]["loss"] != plain.summary["mean"]["personal"]["loss"]


def test_a_robust_rule_takes_another_way_than_the_mean(played):
    median = sent(played("fedavg", rounds=1, aggregate={"rule": "median"}))
    assert any(not torch.equal(t, median[n]) for n, t in sent(played("fedavg", rounds=1)).items())


def test_a_shared_expert_goes_through_a_robust_rule(played):
    """Its index is a whole number, which has no mean: it is the same one for all, and stays it."""
    graft = {"select": "index", "index": 1}
    run = played("flex", rounds=1, expert="shared", graft=graft, aggregate={"rule": "median"})
    index = {n: t for n, t in sent(run, "expert").items() if n.endswith("/index")}
    assert index and all((t == 1).all() for t in index.values())
