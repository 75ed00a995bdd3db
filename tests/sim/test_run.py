"""A run from start to end: what it leaves behind, when it scores, how it fails."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from flexray import api
from flexray.config import Experiment
from flexray.errors import ConfigError, RunError
from flexray.sim.events import Evaluated, Finished, Progress, RoundDone, Started
from flexray.sim.planning.plan import prepare
from flexray.sim.private.store import PrivateStore
from flexray.sim.run import _clusters, run
from flexray.sim.run_folder import RunFolder
from flexray.sim.work import Scoring
from flexray.state import ClientState
from tests.sim.played import PlayedPool

CPU4 = {"CPU": 4.0}


@pytest.fixture(scope="module")
def events_and_run(small, tmp_path_factory):
    events = []
    run = api.simulate(small(rounds=3, evaluation={"every": 2}), tmp_path_factory.mktemp("runs") / "run", watch=events.append)
    return events[1:], run


def test_the_run_folder_holds_all_that_is_promised(events_and_run):
    _, run = events_and_run
    files = {f.name for f in run.path.iterdir()}
    assert files == {
        "config.yaml", "versions.json", "clients.json", "rounds.parquet", "bytes", "inside",
        "clients.parquet", "evaluations.parquet", "rows.parquet",
        "server.safetensors", "private", "summary.json", "tracking.json", "tensorboard",
    }  # fmt: skip
    assert len(list((run.path / "private").iterdir())) == 3


def test_the_resolved_config_is_the_experiment_with_auto_settled(events_and_run):
    _, run = events_and_run
    x = Experiment(**yaml.safe_load((run.path / "config.yaml").read_text()))
    assert x.placement in ("one_per_client", "pooled")  # by how many CPUs there are
    assert x.seats == 1
    assert x.rounds == 3


def test_the_summary_has_every_client_in_three_views(events_and_run):
    _, run = events_and_run
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary == run.summary == api.load_run(run.path).summary
    assert [c["client"] for c in summary["clients"]] == ["client-0", "client-1", "client-2"]
    for client in summary["clients"]:
        for view in ("base", "shared", "personal"):
            assert client[view]["loss"] > 0
            assert 0 <= client[view]["exact_match"] <= 1


def test_every_row_of_the_last_evaluation_is_kept_in_all_views(events_and_run):
    """Their sums give each client's numbers, and over all clients the weighted mean."""
    _, run = events_and_run
    rows, folder = RunFolder(run.path).table("rows"), RunFolder(run.path)
    assert list(rows[0]) == ["client", "name", "view", "row", "nll", "tokens", "exact", "rows"]
    assert len(rows) == 3 * 3 * 4  # clients, views, test rows
    for number, client in enumerate(run.summary["clients"]):
        for view in ("base", "shared", "personal"):
            own = [row for row in rows if row["client"] == number and row["view"] == view]
            assert {row["name"] for row in own} == {client["client"]}
            assert sum(r["nll"] for r in own) / sum(r["tokens"] for r in own) == pytest.approx(client[view]["loss"])
            assert sum(r["exact"] for r in own) / 4 == client[view]["exact_match"]
    totals = folder.totals()["personal"]
    assert totals["rows"] == 12
    assert run.summary["weighted_mean"]["personal"]["loss"] == pytest.approx(totals["nll"] / totals["tokens"])
    last = folder.table("evaluations")[-1]
    assert (last["round"], last["split"], last["when"]) == (3, "test", "before_steps")


def test_bytes_are_those_of_the_vectors_that_crossed(events_and_run):
    _, run = events_and_run
    numbers = sum(t.numel() for t in load_file(run.path / "server.safetensors").values() if t.dtype == torch.float32)
    told = run.summary["bytes"]
    assert told["up"] == told["down"] == 3 * 3 * 4 * numbers  # rounds · clients · float32
    assert told["by_role"]["up"] == {"lora": told["up"]} and told["one_update"]["up"] == 4 * numbers
    assert told["one_update"]["up"] < told["one_update"]["lora_on_experts"] < told["one_update"]["full_model"]


def test_inside_the_blocks_there_is_a_row_for_every_client_and_block(events_and_run):
    _, run = events_and_run
    rows = run.inside()
    assert len(rows) == 3 * 3 * 4  # evaluations · clients · blocks
    first = [r for r in rows if r["round"] == 0]
    assert all(r["drift"] == 0 and r["gate.expert"] == 0.5 and r["share.expert"] == 0 for r in first)  # the identity start
    last = [r for r in rows if r["round"] == 3]
    assert all(r["drift"] >= 0 and 0 < r["share.expert"] < 1 and len(r["grafted"]) == 1 for r in last)
    assert any(r["drift"] > 0 for r in last)
    assert all(sum(r["load"]) == pytest.approx(2) for r in rows)  # two experts a token
    assert run.summary["inside"].keys() == {"entropy", "drift", "gate.expert", "share.expert"}


def test_tables(events_and_run):
    _, run = events_and_run
    assert pq.read_table(run.path / "rounds.parquet").column("round").to_pylist() == [0, 1, 2]
    clients = run.clients()
    assert set(clients[0]) == {"round", "client", "name", "view", "metric", "value", "split"}
    assert {(r["round"], r["view"]) for r in clients} == {
        (0, "base"), (0, "shared"), (0, "personal"), (2, "shared"), (2, "personal"), (3, "shared"), (3, "personal"),
    }  # fmt: skip


def test_at_the_identity_start_all_views_are_the_frozen_base(events_and_run):
    _, run = events_and_run
    first = {(r["client"], r["view"], r["metric"]): r["value"] for r in run.clients() if r["round"] == 0}
    for (client, _, metric), value in first.items():
        assert value == first[client, "base", metric]


def test_events_tell_the_whole_story_in_order(events_and_run):
    events, _ = events_and_run
    kinds = [type(e) for e in events]
    assert kinds[0] is Started
    assert kinds[-1] is Finished
    assert kinds.count(RoundDone) == 3
    assert kinds.count(Progress) == 9
    assert [e.round for e in events if isinstance(e, Evaluated)] == [0, 2, 3]


@pytest.mark.parametrize(("who", "scored"), [("all", 3), ("cohort", 1), (2, 2)])
def test_who_is_scored_in_between_and_at_the_end(small, tmp_path, who, scored):
    for key, expected in (("clients", [scored, 3]), ("last", [3, scored])):
        events = []
        x = small(cohort=1, evaluation={key: who, "every": 1}, rounds=1)
        run = api.simulate(x, tmp_path / key, watch=events.append)
        assert [e.clients for e in events if isinstance(e, Evaluated)] == expected
        assert len(run.summary["clients"]) == expected[-1]


def test_a_client_that_never_took_part_is_served_its_start_and_owns_nothing(small, tmp_path):
    run = api.simulate(small(cohort=1, rounds=1), tmp_path / "run")
    assert len(run.summary["clients"]) == 3
    assert len(list((run.path / "private").iterdir())) == 1


def test_a_failing_client_is_named_with_its_round_and_the_way_on(small, tmp_path):
    x = small(train={"lr": 1e30, "final_lr": 1e30, "optimizer": "sgd", "clip": None, "steps": 3, "batch": 2})
    with pytest.raises(
        RunError, match=r"(?s)round 0, client client-\d: FloatingPointError.*3 times.*\n.*flexray simulate --resume"
    ) as e:
        api.simulate(x, tmp_path / "run")
    assert "train.lr" in str(e.value)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_folder_in_use_is_refused(small, tmp_path):
    (tmp_path / "thing").write_text("mine")
    with pytest.raises(ConfigError, match="--out: expected a new or empty folder"):
        api.simulate(small(), tmp_path)
    with pytest.raises(ConfigError, match="--out: expected a folder, got the file"):
        api.simulate(small(), tmp_path / "thing")
    with pytest.raises(ConfigError, match="--resume: expected the folder of a run"):
        api.resume(tmp_path)


def test_wrong_input_leaves_nothing_behind(small, tmp_path):
    with pytest.raises(ConfigError):
        api.simulate(small(model={"path": str(tmp_path / "no-model")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_base_of_a_client_is_scored_once_and_stays(small, tmp_path):
    """Clients come into view at different rounds, and the run is resumed."""
    run = api.simulate(small(cohort=1, evaluation={"clients": "cohort", "every": 1}, rounds=2), tmp_path / "run")
    before = RunFolder(run.path).table("rows")
    assert len(before) == 3 * 3 * 4
    again = api.resume(run.path)
    assert again.summary["clients"] == run.summary["clients"]
    after = RunFolder(run.path).table("rows")
    assert sorted(map(str, after)) == sorted(map(str, before))


def test_a_finished_run_may_be_resumed_to_the_same_end(small, tmp_path):
    run = api.simulate(small(rounds=1), tmp_path / "run")
    again = api.resume(tmp_path / "run")
    assert again.summary["clients"] == run.summary["clients"]


def test_a_users_method_travels_with_the_job(small, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import dataclass\n"
        "from flexray.algorithm import Algorithm, Lora, Part\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(Algorithm):\n    rank: int = 2\n\n"
        "    @property\n    def parts(self):\n        return (Part('lora', 'lora', 'shared', Lora(rank=self.rank)),)\n\n"
        "    def client(self, trainer, sent, mine):\n        return self.divide(trainer.fit(sent.weights, steps=1))\n"
    )
    x = small(algorithm={"name": str(mine), "rank": 3}, rounds=1)
    mine.unlink()
    run = api.simulate(x, tmp_path / "run")
    assert run.summary["algorithm"] == str(mine)
    assert len(json.loads((run.path / "versions.json").read_text())["files_sha256"][str(mine)]) == 64
    assert api.resume(run.path).summary["clients"] == run.summary["clients"]
    job, _ = prepare(x, CPU4, tmp_path)
    assert {s[0] for n, s in job.shapes.items() if n.endswith("/a")} == {3}


def test_progress_told_together():
    """(2 · 1 + 3 · 2) / 5"""
    both = Progress(1, 2, 9, 1.0, 10).plus(Progress(1, 3, 9, 2.0, 20))
    assert both == Progress(1, 5, 9, 1.6, 30)


ORDERS = {
    "scoring first": list,
    "scoring last": lambda tasks: sorted(tasks, key=lambda task: isinstance(task, Scoring)),
    "backwards": lambda tasks: tasks[::-1],
    "in turns": lambda tasks: [*tasks[::2], *tasks[1::2]],
}


@pytest.fixture
def played(bare_job, tmp_path):
    """Plays a run without a model: `played("out", order, rows, …settings)` gives its events, pool and folder."""

    def play(name, order=list, rows=(1, 3), resume=False, unwell=None, **settings):
        job = bare_job([*rows], **{"rounds": 3, "evaluation": {"every": 1, "metrics": ["loss"]}} | settings)
        out, pools, events = tmp_path / name, [], []
        out.mkdir(exist_ok=True)

        def pool(job):
            pools.append(PlayedPool(job, order))
            pools[0].unwell = unwell
            return pools[0]

        def go():
            events.extend((event, tables(RunFolder(out))) for event in run(job, pool, out, resume))

        return go, events, pools, RunFolder(out)

    return play


def tables(folder) -> dict[str, list[int]]:
    return {name: [row["round"] for row in folder.table(name)] for name in ("rounds", "evaluations")}


def untimed(rows):
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]


def told(folder):
    rows = sorted(folder.table("rows"), key=str)
    return {n: untimed(folder.table(n)) for n in ("rounds", "clients", "evaluations", "bytes")} | {"rows": rows}


@pytest.mark.parametrize("order", ORDERS)
def test_whenever_scores_come_the_run_is_the_same(played, order):
    """Two clients with 1 and 3 rows, whose updates are 1 and 2 more than what was sent: each round adds (1 · 1 + 3 · 2)/4 = 1.75."""
    go, _, pools, folder = played(order, ORDERS[order])
    straight, _, _, other = played("straight")
    go()
    straight()
    server, round, _ = folder.load_server()
    assert round == 2 and all((t == 5.25).all() for t in server.states[0].sent.weights.values())
    assert told(folder) == told(other)
    assert pools[0].closed and pools[0].settled == 4  # after each round, and after the last evaluation


@pytest.mark.parametrize("order", ORDERS)
def test_an_evaluation_is_saved_as_soon_as_it_is_whole(played, order):
    """While the round that was played meanwhile is not yet over."""
    go, events, _, _ = played(order, ORDERS[order])
    go()
    for r in range(3):
        at = next(i for i, (e, _) in enumerate(events) if isinstance(e, Evaluated) and e.round == r)
        done = next(i for i, (e, _) in enumerate(events) if isinstance(e, RoundDone) and e.report.round == r)
        assert at < done
        assert events[at][1] == {"rounds": [*range(r)], "evaluations": [*range(r + 1)]}
        assert events[done][1] == {"rounds": [*range(r + 1)], "evaluations": [*range(r + 1)]}
        if order == "scoring first":
            assert all(e.round < r for e, _ in events[:at] if isinstance(e, Progress))
        if order == "scoring last":
            assert sum(e.clients for e, _ in events[:at] if isinstance(e, Progress) and e.round == r) == 2
    losses = [e.means["personal"]["loss"] for e, _ in events if isinstance(e, Evaluated)]
    assert losses == [0, 1, 2, 3]
    assert isinstance(events[-1][0], Finished) and events[-1][1] == {"rounds": [0, 1, 2], "evaluations": [0, 1, 2, 3]}


def test_an_evaluation_is_of_everybody_and_the_base_is_scored_once(played):
    go, events, pools, _ = played("run", rows=[1] * 5, cohort=2)
    go()
    views = [{(c, task.views) for task in w.scoring for group in task.groups for c in group} for w in pools[0].works]
    assert views[0] == {(c, ("base", "shared", "personal")) for c in range(5)}
    assert views[1:] == [{(c, ("shared", "personal")) for c in range(5)}] * 3
    assert [e.clients for e, _ in events if isinstance(e, Evaluated)] == [5] * 4
    assert pools[0].works[-1].training == ()


def test_what_was_written_of_whom_is_known_in_the_next_round(played):
    """Who was only scored owns nothing."""
    go, _, pools, _ = played("run", rows=[1] * 5, cohort=2, rounds=2, order=ORDERS["scoring last"])
    go()
    first, second, last = pools[0].works
    cohorts = [pools[0].job.taking_part(r) for r in (0, 1)]
    assert first.known == {} or first.known is last.known  # one dict, that grows
    wanted = dict.fromkeys(cohorts[0], 0) | dict.fromkeys(cohorts[1], 1)
    assert last.known == wanted and second.round == 1


def test_a_round_whose_states_are_not_at_rest_is_not_saved(played):
    go, events, pools, folder = played("run", unwell=RunError("private state could not be written: OSError: full"))
    with pytest.raises(RunError, match="could not be written"):
        go()
    assert tables(folder) == {"rounds": [], "evaluations": [0]} and folder.load_server() is None
    assert not any(isinstance(e, RoundDone) for e, _ in events) and pools[0].closed
    again, _, _, _ = played("run", resume=True)
    straight, _, _, other = played("straight")
    again()
    straight()
    assert told(folder) == told(other)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_finished_run_goes_on_with_more_rounds_as_if_it_had_never_ended(played, every):
    how = {"evaluation": {"every": every, "metrics": ["loss"]}}
    first, _, _, _ = played("run", rounds=3, **how)
    more, _, pools, folder = played("run", rounds=6, resume=True, **how)
    straight, _, _, other = played("straight", rounds=6, **how)
    first()
    more()
    straight()
    assert [w.round for w in pools[0].works] == [3, 4, 5, 6]
    mine, wanted = told(folder), told(other)
    if every == 2:  # the end of the first run was none of the evaluations in between
        assert 3 not in {e["round"] for e in wanted["evaluations"]}
        mine = {
            name: [r for r in rows if name not in ("clients", "evaluations") or r["round"] != 3] for name, rows in mine.items()
        }
    assert mine == wanted
    a, b = (f.load_server()[0].states[0].sent.weights for f in (folder, other))
    assert all(torch.equal(t, b[n]) for n, t in a.items())


def test_who_owns_what_is_read_off_the_files_when_a_run_goes_on(played):
    """Client 1 was trained in round 3, which was never finished; client 0 was not."""
    first, _, pools, _ = played("run", rounds=2)
    first()
    store = PrivateStore(pools[0].job.private, ["c0", "c1"], pools[0].job.identity)
    for client, round in ((0, 1), (1, 1), (1, 2)):
        store.save(client, round, ClientState({"expert/x": torch.tensor(float(round))}))
    known = {}

    def look(tasks):
        known.update(known or {**pools[0].works[0].known, "newest": store.newest(1, 99)})
        return tasks

    more, _, pools, _ = played("run", look, rounds=3, resume=True)
    more()
    assert known == {0: 1, 1: 1, "newest": 1}


def test_what_clients_told_before_the_first_round_is_kept_in_their_order(bare_job, tmp_path):
    """Whoever answers first: an actor that was killed is asked anew."""
    job, folder = bare_job([1, 3, 2], algorithm={"name": "cluster_routing"}), RunFolder(tmp_path)
    answers = {c: {"usage": torch.tensor([float(c), 1.0])} for c in (2, 0, 1)}
    pool = SimpleNamespace(survey=lambda groups: ({client: state} for client, state in answers.items()))
    assert len(_clusters(job, cast(Any, pool), folder)) == 3
    assert [row["client"] for row in folder.table("bytes")] == [0, 1, 2]
