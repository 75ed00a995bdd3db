"""Runs on several nodes that share no cache, by the command line: one of them dies, another comes; the bytes are those of one process."""

import json
import os
import subprocess
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from time import monotonic, sleep

import pytest

from flexray import api
from tests.machines import Machines, can_hide
from tests.sim.test_faults import assert_same, rounds

pytestmark = pytest.mark.skipif(not can_hide(), reason="needs `unshare -m`, so that a node has folders of its own")
RUN = {
    "clients": 6,
    "train": {"steps": 6, "batch": 2},
    "data": {"max_train_rows": 12, "max_valid_rows": 4, "max_test_rows": 4},
    "evaluation": {"every": None},
    "seats": 1,
    "resources": {"threads": 1},
}


WAITS = '''"""FLEx that does not go on after some rounds until somebody says so."""
import time
from dataclasses import dataclass
from pathlib import Path
from flexray.algorithms.flex import Flex

@dataclass(frozen=True)
class Waits(Flex):
    until: str = ""

    def client(self, trainer, server, mine):
        while trainer.round > 2 and not Path(self.until).exists():
            time.sleep(0.05)
        return super().client(trainer, server, mine)
'''


@pytest.fixture(scope="module")
def hidden(tmp_path_factory) -> Path:
    """A folder of which the first node and the others have each their own."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def machines(hidden):
    """A head with one CPU and a node with two."""
    there = Machines(Path(mkdtemp(prefix="ray-")))  # sockets bear no long path
    try:
        there.start(1, None, "--ray-client-server-port", str(there.client))
        there.start(2, hidden)
        yield there
    finally:
        there.stop()
        rmtree(there.folder, ignore_errors=True)


def simulate(
    machines: Machines, folder: Path, hidden: Path, *more: str, address: str | None = None, **changes
) -> subprocess.Popen:
    config = folder / "run.yaml"
    config.write_text(json.dumps({**RUN, "storage": {"cache": str(hidden / "cache")}, **changes}))
    where = ["--address", address or machines.address]
    return machines.run("-m", "flexray", "simulate", str(config), "--out", str(folder / "run"), "--json", *where, *more)


def ended(process: subprocess.Popen, code: int = 0, seconds: float = 200) -> tuple[str, str]:
    try:
        told = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == code, told[1][-3000:]
    return told


def alone(folder: Path, cache: Path, **changes) -> Path:
    """The same in one process."""
    from flexray.config import Experiment

    x = {**RUN, "storage": {"cache": str(cache)}, **changes, "resources": {**RUN["resources"], "backend": "inline"}}
    return api.simulate(Experiment(**x), folder / "alone").path


def entries(node: subprocess.Popen, hidden: Path) -> list[str]:
    """What a node's own cache has."""
    cache = Path(f"/proc/{node.pid}/root{hidden}/cache")
    found = (f for f in cache.rglob("*") if f.is_file() and f.suffix != ".lock")
    return sorted(str(f.relative_to(cache)) for f in found)


def until(true, seconds: float = 120) -> None:
    before = monotonic()
    while not true():
        assert monotonic() - before < seconds
        sleep(0.1)


def test_a_node_dies_and_another_one_comes(machines, hidden, tmp_path, cache):
    """Of three actors two are gone for a while, and their work is done by who is left, and then by those who start on the new node. It gets
    what it needs of the cache through the object store, as the first one did."""
    (method := tmp_path / "waits.py").write_text(WAITS)
    come = tmp_path / "come"
    played = {"rounds": 5, "placement": "one_per_client", "algorithm": {"name": str(method), "until": str(come)}}
    process = simulate(machines, tmp_path, hidden, **played)
    until(lambda: (tmp_path / "run" / "server.safetensors").exists())
    first = machines.nodes[1]
    brought = entries(first, hidden)
    assert [Path(name).suffix for name in brought].count(".arrow") == 1 and any("backbone" in name for name in brought)
    machines.kill(first)
    second = machines.start(2, hidden)
    until(lambda: entries(second, hidden) == brought)
    come.touch()
    ended(process)
    assert_same(tmp_path / "run", whole := alone(tmp_path, cache, **played))
    assert rounds(tmp_path / "run") == rounds(whole)


def test_what_only_one_node_sees_is_no_place_for_private_state(machines, hidden, tmp_path):
    _, told = ended(simulate(machines, tmp_path, hidden, "--out", str(hidden / "run")), code=2)
    assert "storage.private: expected a folder that all nodes share" in told and "does not see it" in told
    assert not (hidden / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sweep", "compare"])
def test_nor_for_runs_that_are_played_on_any_node(machines, hidden, tmp_path, command):
    what = {"sweep": {"over": {"seed": {"grid": [0, 1]}}}, "compare": {"methods": ["flex"], "seeds": [0, 1]}}
    config = tmp_path / "many.yaml"
    config.write_text(json.dumps({**RUN, "storage": {"cache": str(hidden / "cache")}, command: what[command]}))
    more = ["--jobs", "2"] if command == "compare" else []
    out = hidden / "many"
    _, told = ended(
        machines.run("-m", "flexray", command, str(config), "--out", str(out), "--address", machines.address, *more), code=2
    )
    assert "--out: expected a folder that all nodes share" in told and not out.exists()


@pytest.mark.slow
def test_a_node_that_comes_gives_more_actors(machines, hidden, tmp_path, cache):
    """Three CPUs hold three actors; with four more, all six clients have one each."""
    played = {"rounds": 25, "placement": "one_per_client"}
    process = simulate(machines, tmp_path, hidden, **played)
    until(lambda: (tmp_path / "run" / "server.safetensors").exists())
    node = machines.start(4, hidden)
    answer, _ = ended(process)
    machines.kill(node)
    assert json.loads(answer)["actors"] == 6
    assert_same(tmp_path / "run", alone(tmp_path, cache, **played))


@pytest.mark.slow
def test_from_a_machine_that_is_no_node_everything_happens_there(machines, hidden, tmp_path, cache):
    """By Ray's client; here the cluster's folders happen to be to hand."""
    address = f"ray://127.0.0.1:{machines.client}"
    answer, _ = ended(simulate(machines, tmp_path, hidden, address=address, rounds=2))
    assert json.loads(answer)["path"] == str(tmp_path / "run")
    assert_same(tmp_path / "run", alone(tmp_path, cache, rounds=2))
    (tmp_path / "run" / "summary.json").unlink()
    again = machines.run("-m", "flexray", "simulate", "--resume", str(tmp_path / "run"), "--address", address)
    ended(again)
    assert (tmp_path / "run" / "summary.json").exists()
    _, told = ended(simulate(machines, tmp_path, hidden, "--out", "run", address=address), code=2)
    assert "--out: expected a whole path with ray://" in told
    _, told = ended(
        simulate(machines, tmp_path / "run", hidden, address=address, rounds=2, data={"path": "/none.jsonl"}), code=2
    )
    assert "data.path" in told


@pytest.mark.slow
def test_in_a_job_the_cluster_is_the_one_that_it_was_submitted_to(machines, hidden, tmp_path, cache):
    """Which is what RAY_ADDRESS names there."""
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**RUN, "rounds": 1, "storage": {"cache": str(hidden / "cache")}}))
    process = machines.run(
        "-m", "flexray", "simulate", str(config), "--out", str(tmp_path / "run"), "--json", RAY_ADDRESS=machines.address
    )
    answer, _ = ended(process)
    assert json.loads(answer)["actors"] == 3
    assert os.listdir(tmp_path / "run" / "private")
