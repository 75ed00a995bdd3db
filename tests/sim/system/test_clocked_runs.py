"""Runs on the simulated clock, from start to end."""

import json
from math import isnan

import pytest

from flexray import api, folder
from flexray.errors import ConfigError
from flexray.sim.events import RoundDone
from flexray.sim.planning.plan import prepare
from flexray.sim.pool import InlinePool
from flexray.sim.run import run
from tests.test_laws import assert_same, method, weights

ASYNC = ("comigs", "diloco", "ditto", "fed_dpa", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedper", "fedprox", "fedrep", "fedsa_lora",
         "fedyogi", "ffa_lora", "flex", "flex_validated", "local", "pfedme")  # fmt: skip
"""Methods whose updates may begin from different states."""
ALIKE = {*ASYNC} - {"fedavg", "flex", "local", "pfedme", "fed_dpa", "fedavgm"}
"""Of these, which are much like the others here."""

CPU4 = {"CPU": 4.0}
QUICK = {"every": None, "last": 1, "metrics": ["loss"]}
FEDAVG = {"name": "fedavg"}
UNEVEN = {"tokens_per_second": {"lognormal": [100, 1]}, "latency": 0.1}
BUFFERED = {"mode": "async", "buffer": 2, **UNEVEN}
TIMES = ("seconds", "seconds_training", "seconds_communication", "seconds_waiting")


def told(done) -> list[dict]:
    """The rounds, without seconds that passed."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in done.rounds()]


@pytest.fixture(scope="module")
def lossy(small, tmp_path_factory):
    x = small(
        rounds=5, clients=4, cohort=2, evaluation=QUICK | {"every": 4},
        system={**UNEVEN, "download_mbps": 8, "upload_mbps": 2, "over_selection": 1.5, "dropout": 0.4, "deadline": 2.0, "min_updates": 2},
    )  # fmt: skip
    return x, api.simulate(x, tmp_path_factory.mktemp("lossy") / "run")


@pytest.fixture(scope="module")
def late(small, tmp_path_factory):
    x = small(
        rounds=5, clients=4, algorithm={"name": "flex", "graft": {"calibration_rows": 4}}, evaluation=QUICK, system=BUFFERED
    )
    return x, api.simulate(x, tmp_path_factory.mktemp("late") / "run")


def test_what_became_of_everybody_is_told(lossy):
    _, done = lossy
    turns, rounds = done.turns(), done.rounds()
    for row in rounds:
        own = [t for t in turns if t["round"] == row["round"]]
        status = [t["status"] for t in own]
        assert row["selected"] == len(own) == 3
        assert row["clients"] == status.count("counted") and row["dropped"] == status.count("dropped")
        assert row["late"] == status.count("late")
        assert row["discarded"] == status.count("discarded") + status.count("void")
        assert isnan(row["loss"]) == (row["clients"] == 0)
        assert {t["started"] for t in own} == {sum(r["simulated_seconds"] for r in rounds[: row["round"]])}
    clock = done.summary["simulated"]
    assert clock["seconds"] == rounds[-1]["simulated_clock"] == pytest.approx(sum(r["simulated_seconds"] for r in rounds))
    assert clock["void_rounds"] == sum(r["clients"] == 0 for r in rounds) > 0  # of these seeds some are
    assert clock["counted"] == sum(r["clients"] for r in rounds) > 0 and clock["selected"] == 15


def test_the_clock_is_the_closed_form(lossy):
    """t = 0.1 + 8·bytes/8e6 + tokens/speed + 0.1 + 8·bytes/2e6, and a round lasts until its second answer, or 2 s."""
    x, done = lossy
    job, _ = prepare(x, CPU4, done.path)
    speed = [c["tokens_per_second"] for c in json.loads((done.path / "system.json").read_text())["clients"]]
    one = done.summary["bytes"]["one_update"]["down"]
    t = [0.2 + one / 1e6 + job.work[c] / speed[c] + one / 0.25e6 for c in range(4)]
    for row in done.rounds():
        own = [turn for turn in done.turns() if turn["round"] == row["round"]]
        assert [turn["seconds"] for turn in own] == pytest.approx([t[turn["client"]] for turn in own])
        in_time = sorted(t[o["client"]] for o in own if o["status"] in ("counted", "void", "discarded"))
        assert row["simulated_seconds"] == pytest.approx(in_time[1] if len(in_time) > 1 else 2.0)


def test_bytes_in_vain_are_in_the_ledger(lossy):
    _, done = lossy
    turns, one = done.turns(), done.summary["bytes"]["one_update"]
    sent = sum(t["status"] != "dropped" for t in turns)
    assert done.summary["bytes"]["down"] == 15 * one["down"] and done.summary["bytes"]["up"] == sent * one["up"]
    vain = sum(t["status"] != "counted" for t in turns) * one["down"] + sum(
        t["status"] not in ("counted", "dropped") for t in turns
    ) * one["up"]  # fmt: skip
    assert done.summary["simulated"]["bytes_wasted"] == sum(r["bytes_wasted"] for r in done.rounds()) == vain
    for row in done.rounds():
        assert row["bytes_down"] == sum(
            r["bytes"] for r in done.bytes() if r["round"] == row["round"] and r["direction"] == "down"
        )


def test_a_void_round_changes_nothing(small, tmp_path):
    x = small(rounds=2, algorithm=FEDAVG, evaluation=QUICK, system={"dropout": 1.0, "latency": 2})
    done = api.simulate(x, tmp_path / "run")
    assert [(r["clients"], r["tokens"], r["simulated_seconds"]) for r in done.rounds()] == [(0, 0, 4.0)] * 2
    assert done.summary["mean"]["personal"] == done.summary["mean"]["base"]
    assert not (done.path / "private").exists() or not [*(done.path / "private").iterdir()]


def test_speeds_alone_change_no_bit_of_what_is_learnt_and_take_no_second(small, tmp_path):
    """Ten times slower clients: ten times as long on the clock."""
    plain = api.simulate(small(algorithm=FEDAVG, cohort=2, evaluation=QUICK), tmp_path / "plain")
    clocks = []
    for slowdown in (1, 10):
        x = small(algorithm=FEDAVG, cohort=2, evaluation=QUICK, system={"tokens_per_second": 5, "slowdown": slowdown})
        done = api.simulate(x, tmp_path / str(slowdown))
        assert_same(weights(done.path), weights(plain.path))
        assert done.summary["mean"] == plain.summary["mean"]
        clocks.append(done.summary["simulated"]["seconds"])
        assert clocks[-1] > done.summary["seconds"]["rounds"]
    assert clocks[1] == pytest.approx(10 * clocks[0])
    assert "simulated" not in plain.summary and plain.turns() == [] and "selected" not in plain.rounds()[0]


@pytest.mark.parametrize("name", ["fedadam", "flex"])
def test_a_buffer_of_all_at_equal_speeds_is_the_synchronous_method_to_the_bit(small, tmp_path, name):
    both = []
    for system in ({"latency": 1.0}, {"latency": 1.0, "mode": "async", "buffer": 2}):
        done = api.simulate(
            small(rounds=3, cohort=2, algorithm=method(name), system=system, evaluation=QUICK), tmp_path / str(len(both))
        )
        both.append(done)
    assert_same(weights(both[0].path), weights(both[1].path))
    assert both[0].summary["mean"] == both[1].summary["mean"] and told(both[0]) == told(both[1])
    assert both[1].summary["simulated"]["staleness_most"] == 0


def test_late_updates_count_and_are_told(late):
    _, done = late
    assert done.summary["simulated"]["staleness_most"] > 0 and len(done.rounds()) == 5
    assert all(r["clients"] == 2 for r in done.rounds())
    assert done.summary["mean"]["personal"]["loss"] != done.summary["mean"]["base"]["loss"]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("which", ["lossy", "late"])
@pytest.mark.parametrize("at", [2])
def test_a_resumed_run_is_as_one_that_was_never_stopped(which, at, request, tmp_path):
    x, whole = request.getfixturevalue(which)

    def stop(event) -> None:
        if isinstance(event, RoundDone) and event.report.round == at:
            raise Stopped

    with pytest.raises(Stopped):
        api.simulate(x, tmp_path / "run", watch=stop)
    again = api.resume(tmp_path / "run")
    assert_same(weights(again.path), weights(whole.path))
    assert again.summary["mean"] == whole.summary["mean"] and again.turns() == whole.turns()
    assert repr(told(again)) == repr(told(whole)) and again.summary["simulated"] == whole.summary["simulated"]


@pytest.mark.parametrize("which", ["lossy", "late"])
def test_seats_change_rounding_only(which, request, small, tmp_path):
    x, whole = request.getfixturevalue(which)
    two = api.simulate(x.model_copy(update={"seats": 2, "placement": "pooled"}), tmp_path / "run")
    assert two.turns() == whole.turns()
    for view, numbers in two.summary["mean"].items():
        assert numbers["loss"] == pytest.approx(whole.summary["mean"][view]["loss"], rel=0.02)


@pytest.mark.parametrize("name", sorted({*folder.listing("algorithms")} - {"central", "flora", *ASYNC}))
def test_methods_that_do_not_just_add_up_take_what_arrives(small, tmp_path, name):
    """Of three that are asked the first two count."""
    x = small(rounds=1, clients=4, cohort=2, algorithm=method(name), system={**UNEVEN, "over_selection": 1.5}, evaluation=QUICK)
    job, _ = prepare(x, CPU4, tmp_path / "private")
    for event in run(job, InlinePool, tmp_path):
        if isinstance(event, RoundDone):
            assert len(event.report.clients) == 2 and len(event.report.unpaid) == 1
            assert event.report.clients.client.tolist() == [*job.taking_part(0)]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ALIKE else ()) for n in sorted(folder.listing("algorithms"))]
)
def test_methods_that_add_up_are_asynchronous_too_and_others_are_refused(small, tmp_path, name):
    def go() -> None:
        x = small(rounds=2, clients=3, algorithm=method(name), system=BUFFERED, evaluation=QUICK)
        job, _ = prepare(x, CPU4, tmp_path / "private")
        list(run(job, InlinePool, tmp_path))

    if name in ASYNC:
        go()
    else:
        with pytest.raises(
            ConfigError, match=r"expected (`system.mode: )?sync|expected none with central|expected all clients"
        ):
            go()


def test_a_run_goes_on_only_with_the_clients_that_it_was_begun_with(small, tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("client,latency\nclient-0,3\n")
    x = small(algorithm=FEDAVG, evaluation=QUICK, system={"profiles": str(file)})

    def stop(event) -> None:
        if isinstance(event, RoundDone):
            raise Stopped

    with pytest.raises(Stopped):
        api.simulate(x, tmp_path / "run", watch=stop)
    file.write_text("client,latency\nclient-0,4\n")
    with pytest.raises(ConfigError, match=r"system: expected the clients' speeds .* put the files of system.profiles"):
        api.resume(tmp_path / "run")
    file.write_text("client,latency\nclient-0,3\n")
    assert api.resume(tmp_path / "run").summary["simulated"]["seconds"] == 12.0
