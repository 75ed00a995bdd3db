"""The command is killed, and what it had started lives on: whoever goes on with the run waits for it, and ends with the same bits."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

SETTINGS = {
    "rounds": 30,
    "clients": 4,
    "seats": 1,
    "placement": "pooled",
    "resources.cpu_per_client": 2,
    "resources.threads": 1,
    "data.max_train_rows": 12,
    "data.max_valid_rows": 4,
    "data.max_test_rows": 4,
    "train.steps": 4,
    "train.batch": 2,
    "evaluation.every": "null",
    "algorithm.graft.calibration_rows": 4,
}

ORPHAN = """
import sys, time
from pathlib import Path
from flexray.sim.holding import leading
with leading(Path(sys.argv[1])):
    print("leads", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def command(cache, tmp_path):
    """Starts `flexray simulate`; at the end all is over."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, out: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "flexray", "simulate", *map(str, arguments)]
        started.append(subprocess.Popen(line, cwd=tmp_path, stdout=out, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def settings(cache: Path, **changes: object) -> list[str]:
    values = SETTINGS | {"storage.cache": cache} | changes
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def until(true: Callable[[], object], seconds: float = 90) -> None:
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end
        sleep(0.02)


def workers(pid: int) -> list[psutil.Process]:
    """The driver actor and the client actors that a command has started."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if re.match(r"ray::(Driver|ClientHost)", " ".join(process.cmdline())):
                found.append(process)
        except psutil.Error:
            continue
    return found


def files(run: Path) -> dict[str, tuple[str, int]]:
    """Contents and time of the server's and the clients' files."""
    every = [run / "server.safetensors", *(run / "private").glob("*/after-*")]
    return {str(f.relative_to(run)): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in every}


def digests(run: Path) -> dict[str, str]:
    return {name: digest for name, (digest, _) in files(run).items()}


@pytest.mark.slow
def test_a_driver_that_outlives_its_command_is_waited_for(command, cache, tmp_path):
    """The command dies at once, its driver actor after seconds. Here another process stands for one that takes longer."""
    run = tmp_path / "run"
    first = command(*settings(cache), "--out", run)
    until(lambda: len(list((run / "rounds").glob("*"))) > 2)
    left = workers(first.pid)
    assert len(left) == 3
    first.kill()
    first.wait()
    assert len(psutil.wait_procs(left, 30)[0]) == 3
    orphan = subprocess.Popen([sys.executable, "-c", ORPHAN, str(run)], stdout=subprocess.PIPE, text=True)
    assert orphan.stdout is not None and orphan.stdout.readline() == "leads\n"
    before = files(run)
    second = command("--resume", run)
    until(lambda: workers(second.pid))
    sleep(6)
    assert second.poll() is None and files(run) == before
    orphan.kill()
    orphan.communicate()
    assert second.wait(90) == 0, second.communicate()[1]
    whole = command(*settings(cache, **{"resources.backend": "inline"}), "--out", tmp_path / "whole")
    assert whole.wait(90) == 0
    assert digests(run) == digests(tmp_path / "whole")
    assert not [*run.rglob(".*")]


@pytest.mark.slow
def test_a_run_that_goes_on_is_not_gone_on_with_twice(command, cache, tmp_path):
    run = tmp_path / "run"
    first = command(*settings(cache, **{"resources.backend": "inline", "rounds": 100_000}), "--out", run)
    until(lambda: (run / "server.safetensors").exists())
    second = command("--resume", run)
    _, said = second.communicate(timeout=90)
    assert second.returncode == 2
    assert f"--resume: expected a run that is not running, got '{run}, which process {first.pid} plays'" in said
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130


@pytest.mark.slow
def test_what_ray_says_of_a_killed_actor_is_not_on_standard_output(command, cache, tmp_path):
    """Ray prints a paragraph there, and there is to be one JSON document; of ours a line is on the other output."""
    run = tmp_path / "run"
    first = command(*settings(cache), "--out", run, "--json", out=subprocess.PIPE)
    until(lambda: len(list((run / "rounds").glob("*"))) > 2)
    next(p for p in workers(first.pid) if "ClientHost" in " ".join(p.cmdline())).kill()
    out, said = first.communicate(timeout=90)
    assert first.returncode == 0 and json.loads(out)["path"] == str(run)
    assert "a client actor is replaced" in said or "tried again: client" in said
    assert "raylet" not in said
