"""Whole runs in which something fails: killed actors, clients that raise, hang, or give no number. The others' work counts, to the bit."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from threading import Thread
from time import sleep

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.errors import RunError
from flexray.sim.events import Finished, Progress, RoundDone, Started, Stumbled

FAILS = '''"""FedAvg in which some client fails."""
import time
from dataclasses import dataclass
from pathlib import Path
import flexray
from flexray.algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Fails(FedAvg):
    who: int = 1
    how: str = "raise"
    once: str = "-"

    def client(self, trainer, server, mine):
        if self.who in trainer.client.tolist() and not Path(self.once).exists():
            if self.once != "-":
                Path(self.once).touch()
            if self.how == "raise":
                raise ValueError("no such row")
            if self.how == "hang":
                time.sleep(600)
            if self.how == "nan":
                trainer.effort.loss[trainer.client.tolist().index(self.who)] = float("nan")
            if self.how == "die":
                import os
                os._exit(1)
        return super().client(trainer, server, mine)
'''


@pytest.fixture(scope="module")
def fails(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("method") / "fails.py"
    file.write_text(FAILS)
    return str(file)


def hosts() -> list[psutil.Process]:
    """The client actors of this very process's Ray."""
    found = []
    for p in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found += [p] if "ray::ClientHost" in " ".join(p.cmdline()) else []
    return found


def contents(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every tensor of the server and of the clients, by file."""
    return {
        str(f.relative_to(run)): load_file(f) for f in [run / "server.safetensors", *(run / "private").rglob("*.safetensors")]
    }


def assert_same(a: Path, b: Path) -> None:
    mine, others = contents(a), contents(b)
    assert mine.keys() == others.keys() and len(mine) > 0
    for file, tensors in mine.items():
        assert all(torch.equal(t, others[file][name]) for name, t in tensors.items()), file


def rounds(run: Path) -> list[tuple]:
    told = api.load_run(run).rounds()
    return [tuple(row[k] for k in ("round", "loss", "clients", "tokens", "bytes_up", "bytes_down")) for row in told]


def test_an_actor_is_killed_while_it_trains_and_one_when_it_has_done_its_part(ray_here, small, tmp_path):
    """The same bits as undisturbed, and nothing is counted twice. Rank 96 on the built-in model is 1.1 MiB, which the actors add up."""
    x = {
        "rounds": 2,
        "clients": 8,
        "seats": 1,
        "algorithm": {"name": "flex", "lora": {"rank": 96}, "graft": {"calibration_rows": 4}},
    }
    told, killed = [], []

    def watch(event):
        told.append(event)
        progress = [e for e in told if isinstance(e, Progress)]
        if isinstance(event, Progress) and len(progress) in (1, 3):
            killed.append(hosts()[0])
            killed[-1].kill()

    ray = {"resources": {"backend": "ray", "cpu_per_client": 2, "threads": 1}, "placement": "pooled"}
    api.simulate(small(**x, **ray), tmp_path / "killed", watch=watch)
    api.simulate(small(**x, resources={"threads": 1}), tmp_path / "whole")
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert rounds(tmp_path / "killed") == rounds(tmp_path / "whole")
    assert len(killed) == 2 and [e for e in told if isinstance(e, Stumbled)]
    assert not [*(tmp_path / "killed").rglob(".*")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["flex", "scaffold", "cluster_routing", "flora"])
def test_actors_are_killed_at_random(ray_here, small, tmp_path, name, seed):
    """The next one only once something was done since: on a busy machine an actor takes longer to start than any time between kills."""
    rng, over, told = np.random.default_rng(seed), [], []
    x = {"rounds": 3, "clients": 12, "algorithm": {"name": name}, "train": {"steps": 8}, "evaluation": {"every": 1}}
    x["faults"] = {"retries": 99, "restarts": 999}

    def kill() -> None:
        while not over:
            sleep(rng.uniform(0.1, 4))
            if alive := hosts():
                before = len(told)
                with suppress(ProcessLookupError):
                    os.kill(alive[rng.integers(len(alive))].pid, signal.SIGKILL)
                while len(told) == before and not over:
                    sleep(0.05)

    def watch(event):
        if isinstance(event, Progress | RoundDone):
            told.append(event)
        if isinstance(event, Started):
            Thread(target=kill, daemon=True).start()
        if isinstance(event, RoundDone) and event.report.round == 2:
            over.append(event)

    try:
        api.simulate(small(**x, resources={"backend": "ray", "threads": 1}, seats=1), tmp_path / "killed", watch=watch)
    finally:
        over.append(None)
    api.simulate(small(**x, seats=1, resources={"threads": 1}), tmp_path / "whole")
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert rounds(tmp_path / "killed") == rounds(tmp_path / "whole")


def test_a_client_that_hangs_is_ended_and_left_out(ray_here, small, fails, tmp_path):
    """It is said where it was; the others are as without actors, where it raises instead."""
    faults = {"client_seconds": 8, "retries": 0, "on_failure": "skip"}
    x = {"rounds": 1, "clients": 4, "seats": 1, "evaluation": {"every": None}}
    method = {"name": fails, "who": 2}
    told = []
    ray = {"resources": {"backend": "ray", "cpu_per_client": 2, "threads": 1}, "placement": "pooled"}
    api.simulate(small(**x, **ray, algorithm={**method, "how": "hang"}, faults=faults), tmp_path / "hangs", watch=told.append)
    (out,) = [e for e in told if isinstance(e, Stumbled) and e.left_out]
    assert out.clients == ("client-2",) and "client_seconds" in out.why and "in client" in out.why
    api.simulate(small(**x, algorithm=method, faults=faults, resources={"threads": 1}), tmp_path / "raises")
    assert_same(tmp_path / "hangs", tmp_path / "raises")


def test_who_is_left_out_is_reported_everywhere_and_the_mean_is_over_the_others(small, fails, tmp_path):
    """As if it did not weigh: of rows 3 · 12, the two others have a half each."""
    told = []
    x = small(
        rounds=2, algorithm={"name": fails, "who": 1}, faults={"on_failure": "skip", "retries": 1}, evaluation={"every": None}
    )
    run = api.simulate(x, tmp_path / "run", watch=told.append)
    out = [e for e in told if isinstance(e, Stumbled)]
    assert [(e.round, e.attempts, e.left_out) for e in out] == [(0, 1, False), (0, 2, True), (1, 1, False), (1, 2, True)]
    assert out[0].clients == ("client-1",) and out[0].why == "ValueError: no such row (fails.py, line 19)"
    rows = json.loads((run.path / "left_out.json").read_text())
    assert [(r["round"], r["doing"], r["name"]) for r in rows] == [(0, "training", "client-1"), (1, "training", "client-1")]
    assert run.summary["left_out"] == rows
    assert [r["clients"] for r in run.rounds()] == [2, 2]
    assert {r["client"] for r in run.bytes() if r["round"] >= 0} == {0, 2}
    assert len(run.summary["clients"]) == 3  # it can be scored


def test_the_mean_over_who_remains_is_that_of_a_run_without_the_others(small, fails, tmp_path):
    """Two of three clients with as many rows each; the cohort's third gives nothing. Compared with each one's own update: the mean."""
    x = {"rounds": 1, "evaluation": {"every": None}, "faults": {"on_failure": "skip", "retries": 0}}
    found = {}
    for who in (0, 1, 2):
        api.simulate(small(**x, algorithm={"name": fails, "who": who}), tmp_path / f"{who}")
        found[who] = load_file(tmp_path / f"{who}" / "server.safetensors")
    api.simulate(small(**x, algorithm={"name": fails, "who": 99}), tmp_path / "all")
    whole = load_file(tmp_path / "all" / "server.safetensors")
    rows = [c["train"] for c in json.loads((tmp_path / "all" / "clients.json").read_text())]
    for name, t in whole.items():  # Σ_i (n - n_i) · mean without i = 2 · Σ_k n_k x_k = 2 n · mean
        if t.is_floating_point() and t.dim():
            together = sum((sum(rows) - rows[i]) * found[i][name].double() for i in range(3)) / (2 * sum(rows))
            torch.testing.assert_close(together, t.double(), rtol=1e-4, atol=1e-7, msg=name)


def test_a_client_that_fails_once_leaves_no_trace(small, fails, tmp_path):
    told = []
    x = {"rounds": 1, "evaluation": {"every": None}}
    api.simulate(small(**x, algorithm={"name": fails, "once": str(tmp_path / "failed")}), tmp_path / "once", watch=told.append)
    assert [e.attempts for e in told if isinstance(e, Stumbled)] == [1] and isinstance(told[-1], Finished)
    api.simulate(small(**x, algorithm={"name": fails, "who": 99}), tmp_path / "never")
    assert_same(tmp_path / "once", tmp_path / "never")


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_of_a_group_the_one_that_fails_is_found(small, fails, tmp_path, how):
    """In a group of three client 1 fails: NaN says whose it is, an error does not."""
    told = []
    x = {"rounds": 1, "seats": 3, "evaluation": {"every": None}, "faults": {"on_failure": "skip", "retries": 0}}
    method = {"name": fails, "how": how}
    run = api.simulate(small(**x, algorithm=method), tmp_path / "run", watch=told.append)
    assert [r["name"] for r in run.summary["left_out"]] == ["client-1"]
    tried = [e.clients for e in told if isinstance(e, Stumbled)]
    assert [len(names) for names in tried] == ([3, 1] if how == "raise" else [1])
    assert run.rounds()[0]["clients"] == 2


def test_by_default_a_client_that_fails_ends_the_run(small, fails, tmp_path):
    x = small(rounds=1, algorithm={"name": fails, "who": 2})
    with pytest.raises(
        RunError, match=r"(?s)round 0, client client-2: ValueError: no such row .*3 times.*on_failure: skip.*--resume"
    ):
        api.simulate(x, tmp_path / "run")


@pytest.mark.slow
def test_a_client_that_takes_its_process_along_is_found(ray_here, small, fails, tmp_path):
    x = small(
        rounds=1, clients=4, algorithm={"name": fails, "who": 3, "how": "die"}, faults={"retries": 0}, evaluation={"every": None},
        resources={"backend": "ray", "cpu_per_client": 4}, placement="pooled",
    )  # fmt: skip
    with pytest.raises(RunError, match=r"(?s)round 0, client client-3: its process died.*--resume"):
        api.simulate(x, tmp_path / "run")
