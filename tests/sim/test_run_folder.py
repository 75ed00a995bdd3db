"""What the run folder writes and reads again: while the run goes on, when it is over, when it goes on after that."""

from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.data.clients import Client
from flexray.errors import RunError
from flexray.models.inside import Inside
from flexray.sim import run_files
from flexray.sim.local.evaluator import Marks
from flexray.sim.reports import ClientReport, Reports, Sight
from flexray.sim.round import RoundReport
from flexray.sim.run_folder import RunFolder
from flexray.sim.work import Server
from flexray.state import ServerState, Update

CLIENTS = [Client(f"c{i}", np.arange(2), np.arange(1), np.arange(1), 0, {}) for i in range(4)]
HOW = {"split": "test", "when": "before_steps"}
ALL = ("base", "shared", "personal")


def server() -> Server:
    states = (
        ServerState(Update({"lora/a": torch.full((2,), value), "lora/b": torch.zeros(3)}, {}), {"m": torch.ones(1)})
        for value in (1.0, 2.0)
    )
    return Server(tuple(states), (0, 1))


def report(round: int, *clients: ClientReport) -> RoundReport:
    return RoundReport(round, Reports.of(clients or [one(0)]), 1.0, 0.5, 0.1)


def one(client: int, up: dict[str, int] | None = None, down: dict[str, int] | None = None) -> ClientReport:
    return ClientReport(client, 1.0, 2, 9, 4, {"lora": 8} if up is None else up, {"lora": 8} if down is None else down)


def evaluate(folder: RunFolder, round: int, value: float, clients=(0, 1), last: bool = False) -> None:
    """Every client has two rows; whose base is known already is not scored in it again."""
    known, value = folder.scored("base"), float(value)
    views = {c: ALL[1:] if c in known else ALL for c in clients}
    marks = {
        c: {v: Marks(np.array([10 * c, 10 * c + 1]), {"nll": np.array([value, 1.0]), "rows": np.ones(2)}) for v in views[c]}
        for c in clients
    }
    folder.save_marks(marks, CLIENTS, round, last)
    rows = [
        {"round": round, "client": c, "name": CLIENTS[c].name, "view": v, "metric": m, "value": value + k, "split": "test"}
        for c in clients for v in views[c] for k, m in enumerate(("loss", "hits"))
    ]  # fmt: skip
    folder.save_scores(rows, round, 0.5, HOW)


def scores(folder: RunFolder) -> dict[tuple[int, int, str, str], float]:
    rows = folder.table("clients")
    found = {(r["round"], r["client"], r["view"], r["metric"]): r["value"] for r in rows}
    assert len(found) == len(rows), "somebody is told twice"
    return found


def counted(folder: RunFolder) -> dict[tuple[int, str, int], float]:
    rows = folder.table("rows")
    found = {(r["client"], r["view"], r["row"]): r["nll"] for r in rows}
    assert len(found) == len(rows), "a row is told twice"
    return found


def played(folder: RunFolder, rounds: range, every: int = 1) -> None:
    """Rounds as a run saves them, and the evaluation at the end."""
    for round in rounds:
        if round % every == 0:
            evaluate(folder, round, round)
        folder.save_round(server(), report(round))
    evaluate(folder, rounds.stop, rounds.stop, last=True)


def test_the_servers_file_is_the_same_bytes_every_time(tmp_path):
    found = set()
    for i in range(8):
        out = tmp_path / str(i)
        out.mkdir()
        RunFolder(out).save_round(server(), report(3))
        found.add((out / "server.safetensors").read_bytes())
    assert len(found) == 1
    loaded, round, _ = RunFolder(tmp_path / "0").load_server() or (Server(()), -1, {})
    assert round == 3 and loaded.clusters == (0, 1)
    assert [state.sent.weights["lora/a"].tolist() for state in loaded.states] == [[1.0, 1.0], [2.0, 2.0]]


def test_an_empty_folder_has_nothing_to_tell(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.load_server() is None and folder.scored("base") == set()
    assert all(folder.table(name) == [] for name in ("rounds", "clients", "evaluations", "rows", "bytes", "inside"))
    assert folder.crossed() == {} and folder.last_inside() == []
    folder.forget_after(3)


def test_tables_are_the_same_before_and_after_the_end(tmp_path):
    folder = RunFolder(tmp_path)
    played(folder, range(12))
    names = ("rounds", "clients", "evaluations", "bytes", "inside")
    before = {name: folder.table(name) for name in names}
    rows, totals, crossed = counted(folder), folder.totals(), folder.crossed()
    assert [r["round"] for r in before["rounds"]] == [*range(12)]  # also behind 9
    assert [e["round"] for e in before["evaluations"]] == [*range(13)]
    folder.finish({"done": True})
    for again in (folder, RunFolder(tmp_path)):
        assert {name: again.table(name) for name in names} == before
        assert counted(again) == rows and again.totals() == totals and again.crossed() == crossed
        assert again.scored("base") == {0, 1}
    assert [r["client"] for r in folder.table("rows")] == sorted(r["client"] for r in folder.table("rows"))
    files = {f.name for f in tmp_path.iterdir()}
    assert files == {
        "rounds.parquet", "clients.parquet", "evaluations.parquet", "rows.parquet", "bytes", "server.safetensors", "summary.json",
    }  # fmt: skip
    folder.finish({"done": True})  # once more: as a run that is resumed when it is over
    assert folder.table("clients") == before["clients"] and counted(folder) == rows


def test_rows_of_a_round_are_as_it_was(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_round(server(), report(2, one(1), one(3)))
    assert folder.table("rounds") == [
        {
            "round": 2, "loss": 1.0, "clients": 2, "tokens": 18, "bytes_up": 16, "bytes_down": 16,
            "seconds": 1.0, "seconds_training": 0.5, "seconds_communication": 0.1, "seconds_waiting": pytest.approx(0.4),
        }
    ]  # fmt: skip


ROLES = st.dictionaries(st.sampled_from(["lora", "expert", "c"]), st.integers(0, 9), max_size=3)


@settings(max_examples=80, deadline=None)
@given(costs=st.lists(st.tuples(ROLES, ROLES), min_size=1, max_size=6))
def test_the_ledger_has_every_clients_bytes_by_direction_and_role(tmp_path_factory, costs):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.save_round(server(), report(4, *(one(3 * i, *cost) for i, cost in enumerate(costs))))
    wanted = [
        {"round": 4, "client": 3 * i, "direction": way, "role": role, "bytes": n}
        for i, cost in enumerate(costs) for way, roles in zip(("up", "down"), cost, strict=True) for role, n in roles.items()
    ]  # fmt: skip
    key = itemgetter("client", "direction", "role")
    assert sorted(folder.table("bytes"), key=key) == sorted(wanted, key=key)
    sums: dict[tuple[str, str], int] = {}
    for row in wanted:
        key = row["direction"], row["role"]
        sums[key] = sums.get(key, 0) + row["bytes"]
    assert folder.crossed() == sums


def test_what_crossed_adds_up_over_rounds_and_what_was_told_before(tmp_path):
    """Two clients told 3 and 5 numbers of four bytes; then two rounds of 8 + 2 bytes each way or one."""
    folder = RunFolder(tmp_path)
    folder.save_survey({0: {"x": torch.ones(3)}, 1: {"x": torch.ones(2), "y": torch.ones(3)}})
    for round in (0, 1):
        folder.save_round(server(), report(round, one(0, {"lora": 8, "c": 2}, {"lora": 4})))
    assert folder.crossed() == {("up", "survey"): 32, ("up", "lora"): 16, ("up", "c"): 4, ("down", "lora"): 8}
    assert [(r["client"], r["bytes"]) for r in folder.table("bytes") if r["round"] == -1] == [(0, 12), (1, 20)]
    folder.forget_after(0)
    assert folder.crossed() == {("up", "survey"): 32, ("up", "lora"): 8, ("up", "c"): 2, ("down", "lora"): 4}


@pytest.mark.parametrize("finished", [False, True])
def test_what_was_never_committed_is_forgotten(tmp_path, finished):
    """Rounds up to 2 are, and the evaluation of the state after it, that of before round 3."""
    folder = RunFolder(tmp_path)
    played(folder, range(5))
    folder.finish({}) if finished else None
    folder.forget_after(2)
    for again in (folder, RunFolder(tmp_path)):
        assert [r["round"] for r in again.table("rounds")] == [0, 1, 2]
        assert {key[0] for key in scores(again)} == {e["round"] for e in again.table("evaluations")} == {0, 1, 2, 3}
        assert {r["round"] for r in again.table("bytes")} == {0, 1, 2}
        assert again.scored("base") == {0, 1}


def test_whose_base_was_scored_in_what_is_forgotten_is_scored_again(tmp_path):
    folder = RunFolder(tmp_path)
    evaluate(folder, 0, 0.0, clients=(0,))
    folder.save_round(server(), report(0))
    evaluate(folder, 1, 1.0, clients=(0,))
    folder.save_round(server(), report(1))
    evaluate(folder, 2, 2.0, clients=(0, 1))
    assert folder.scored("base") == {0, 1}
    folder.forget_after(0)
    assert folder.scored("base") == {0} and RunFolder(tmp_path).scored("base") == {0}
    assert {key[:2] for key in counted(folder)} == {(0, "base")}


def test_an_evaluation_that_is_done_again_replaces_what_it_tells_anew(tmp_path):
    """Of the base nothing new is told: it stays."""
    folder = RunFolder(tmp_path)
    evaluate(folder, 1, 5.0)
    again = RunFolder(tmp_path)
    evaluate(again, 1, 7.0)
    assert scores(again) == {
        (1, c, v, m): (5.0 if v == "base" else 7.0) + k for c in (0, 1) for v in ALL for k, m in enumerate(("loss", "hits"))
    }
    assert [e["round"] for e in again.table("evaluations")] == [1]
    assert [r["client"] for r in again.table("clients")] == [0] * 6 + [1] * 6


@pytest.mark.parametrize("again", [False, True])
def test_a_finished_run_that_goes_on_is_one_that_never_stopped(tmp_path, again):
    """Three rounds, finished, then five. again: the evaluation at the first end is one of those in between, too."""
    every = 3 if again else 2
    straight, folder = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "run")
    for f in (straight, folder):
        f.path.mkdir()
    played(straight, range(6), every)
    straight.finish({})
    played(folder, range(3), every)
    folder.finish({})
    resumed = RunFolder(folder.path)
    resumed.forget_after(2)
    for round in range(3, 6):
        if round % every == 0:
            evaluate(resumed, round, round)
        resumed.save_round(server(), report(round))
    evaluate(resumed, 6, 6, last=True)
    for finished in (False, True):
        resumed.finish({}) if finished else None
        extra = set() if again else {3}  # at the first end only
        assert {k: v for k, v in scores(resumed).items() if k[0] not in extra} == scores(straight)
        assert [e["round"] for e in resumed.table("evaluations") if e["round"] not in extra] == [
            e["round"] for e in straight.table("evaluations")
        ]
        assert resumed.table("rounds") == straight.table("rounds") and resumed.table("bytes") == straight.table("bytes")
        assert counted(resumed) == counted(straight) and resumed.totals() == straight.totals()


def test_a_run_that_stopped_behind_its_last_evaluation_and_goes_on_tells_no_row_twice(tmp_path):
    """Three rounds and all their scores are there, but not the end; it is resumed with five rounds."""
    folder = RunFolder(tmp_path)
    played(folder, range(3), 2)
    resumed = RunFolder(tmp_path)
    resumed.forget_after(2)
    for round in (3, 4):
        resumed.save_round(server(), report(round))
    evaluate(resumed, 5, 5.0, last=True)
    for finished in (False, True):
        resumed.finish({}) if finished else None
        assert counted(resumed) == {
            (c, v, 10 * c + i): 1.0 if i else 0.0 if v == "base" else 5.0 for c in (0, 1) for v in ALL for i in (0, 1)
        }


def test_a_finish_that_was_cut_short_loses_and_doubles_nothing(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    played(folder, range(3))
    before, rows = {name: folder.table(name) for name in ("rounds", "clients", "evaluations")}, counted(folder)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            folder.finish({})
    assert (tmp_path / "rounds.parquet").exists() and (tmp_path / "rounds").exists()
    assert not (tmp_path / "summary.json").exists()
    for _ in range(2):
        assert {name: folder.table(name) for name in before} == before and counted(folder) == rows
        folder.finish({})


def test_the_base_of_clients_that_come_later_is_added(tmp_path):
    folder = RunFolder(tmp_path)
    evaluate(folder, 0, 1.0, clients=(2,))
    evaluate(folder, 1, 2.0, clients=(0, 2))
    evaluate(folder, 2, 3.0, clients=(0, 1, 2), last=True)
    base = {client: value for (client, view, row), value in counted(folder).items() if view == "base" and row == 10 * client}
    assert base == {2: 1.0, 0: 2.0, 1: 3.0}
    assert len(counted(folder)) == 3 * 3 * 2


def test_totals_are_over_those_who_were_scored_at_last(tmp_path):
    """Client 1 was scored in between only: its base is there, and does not count. Two rows each: 3 + 1 and 1 + 1."""
    folder = RunFolder(tmp_path)
    evaluate(folder, 0, 1.0, clients=(0, 1))
    evaluate(folder, 1, 3.0, clients=(0,), last=True)
    assert folder.totals() == {
        "base": {"nll": 2.0, "rows": 2.0}, "shared": {"nll": 4.0, "rows": 2.0}, "personal": {"nll": 4.0, "rows": 2.0},
    }  # fmt: skip


def test_counts_that_only_some_rows_have_are_nothing_elsewhere(tmp_path):
    """Of the base hits were not counted then."""
    folder = RunFolder(tmp_path)
    folder.save_marks({0: {"base": Marks(np.arange(2), {"nll": np.ones(2)})}}, CLIENTS, 0, False)
    folder.save_marks({0: {"personal": Marks(np.arange(2), {"nll": np.ones(2), "hits": np.ones(2)})}}, CLIENTS, 1, True)
    assert folder.totals()["personal"] == {"nll": 2.0, "hits": 2.0}
    folder.finish({})
    assert folder.totals()["personal"] == {"nll": 2.0, "hits": 2.0}


def test_whole_numbers_and_others_fit_into_one_table(tmp_path):
    """A metric may give 0 in one evaluation, and 0.5 in the next."""
    folder = RunFolder(tmp_path)
    for round, value in ((0, 0), (1, 0.5)):
        row = {"round": round, "client": 0, "name": "c0", "view": "base", "metric": "mine", "value": value, "split": "test"}
        folder.save_scores([row], round, 0.5, HOW)
        folder.save_marks({round: {"base": Marks(np.arange(2), {"hits": np.array([value] * 2)})}}, CLIENTS, round, True)
    folder.save_scores([row | {"client": 1, "value": 1}], 1, 0.5, HOW)
    folder.finish({})
    assert [r["value"] for r in folder.table("clients")] == [0, 0.5, 1]


def test_means_are_over_clients(tmp_path):
    rows = [
        {"round": 0, "client": c, "name": f"c{c}", "view": v, "metric": "loss", "value": value, "split": "test"}
        for c, v, value in ((0, "base", 1.0), (1, "base", 4.0), (0, "personal", 2.0))
    ]
    assert RunFolder(tmp_path).save_scores(rows, 0, 0.5, HOW) == {"base": {"loss": 2.5}, "personal": {"loss": 2.0}}


def test_the_last_look_inside_is_that_of_the_last_evaluation(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.last_inside() == []
    for round in (0, 10, 2):
        block = Inside("b0", 0, [1.0, 1.0], float(round), 0.0, {"expert": 0.5}, {"expert": 0.0}, {"expert": 0.25})
        folder.save_inside(round, {"c0": Sight((block,), {"b0": [3]}), "c1": Sight((block,), {})})
    folder.save_inside(11, {})
    assert [(r["round"], r["client"], r["entropy"], r["grafted"]) for r in folder.last_inside()] == [
        (10, "c0", 10.0, [3]), (10, "c1", 10.0, []),
    ]  # fmt: skip
    assert len(folder.table("inside")) == 6 and folder.table("inside")[0]["gate.expert"] == 0.5
    folder.forget_after(2)
    assert {r["round"] for r in folder.table("inside")} == {0, 2}


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.save_round(server(), report(0))

    def half(table, path):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(run_files, "write_table", half)
        for round in (0, 1):
            with pytest.raises(RunError, match="No space"):
                folder.save_round(server(), report(round))
    assert [r["round"] for r in RunFolder(tmp_path).table("rounds")] == [0]
    loaded = folder.load_server()
    assert loaded is not None and loaded[1] == 0


def test_a_full_disk_is_told_with_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_json("x.json", 1)

    def full(self, *_, **__):
        raise OSError(28, "Error writing bytes to file")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"x\.json could not be written: No space left on device"):
        folder.write_json("x.json", 2)
    assert (tmp_path / "x.json").read_text() == "1\n"
