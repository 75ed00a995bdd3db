"""deploy/slurm.sh as SLURM would run it, on two Ray nodes of this machine: srun, scontrol are stand-ins."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flexray import api

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm.sh"
ROUNDS = 40
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then printf '%s\\n' ${3//,/ }; else echo "$@" >> "$ASKED"; fi
"""


@pytest.fixture
def slurm(tmp_path, small):
    """Starts the script as a job, which runs `many.yaml`; `asked` is what it wants of SLURM."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    number = str(os.getpid())
    spec = small(rounds=ROUNDS, seats=1, resources={"backend": "ray", "threads": 1}).spec()
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(spec))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))} | {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(SCRIPT.parents[1]),
        "ASKED": str(tmp_path / "asked"),
        "SLURM_JOB_ID": number,
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_CPUS_PER_TASK": "1",
    }
    jobs = []

    def start(log: str) -> subprocess.Popen:
        with (tmp_path / log).open("w") as out:
            call = ["bash", SCRIPT, tmp_path / "many.yaml", tmp_path / "run"]
            jobs.append(subprocess.Popen(call, env=env, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    shutil.rmtree(f"/tmp/flexray-{number}", ignore_errors=True)


def played(run: Path) -> int:
    """Rounds that are finished."""
    return len(list((run / "rounds").glob("*.parquet"))) if (run / "rounds").is_dir() else 0


def plays(job: subprocess.Popen, run: Path, more: int = 3) -> subprocess.Popen:
    """The job, as soon as it has played so many rounds more."""
    until, begun = time.monotonic() + 180, played(run)
    while played(run) < begun + more:
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    return job


def ended(job: subprocess.Popen, how: int) -> int:
    """The job's exit code after a signal."""
    os.kill(job.pid, how)
    return job.wait(120)


def told_to_a_stranger(log: str) -> str:
    """What Ray tells somebody who has another token than the job of this log."""
    (address,) = re.findall(r"nodes at (\S+)", log)
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    call = [Path(sys.executable).with_name("ray"), "status", "--address", address]
    return subprocess.run(call, env=env, capture_output=True, text=True, timeout=60).stderr


@pytest.mark.slow
def test_a_job_is_stopped_requeued_and_goes_on(slurm, small, tmp_path):
    run, asked = tmp_path / "run", tmp_path / "asked"
    job = plays(slurm("1.log"), run)
    assert "InvalidAuthToken" in told_to_a_stranger((tmp_path / "1.log").read_text())
    assert ended(job, signal.SIGUSR1) == 130
    assert asked.read_text() == f"requeue {os.getpid()}\n"
    assert ended(plays(slurm("2.log"), run), signal.SIGTERM) == 130  # as scancel does: it ends, and is not put back
    assert asked.read_text().count("requeue") == 1
    assert slurm("3.log").wait(240) == 0, (tmp_path / "3.log").read_text()
    for log in ("1.log", "2.log", "3.log"):
        said = (tmp_path / log).read_text()
        assert "2 of 2 nodes at" in said
        assert "2 actors × 1 seat" in said
        assert ("going on at round" in said) == (log != "1.log")
    alone = api.simulate(small(rounds=ROUNDS, seats=1, resources={"threads": 1}), tmp_path / "alone")
    assert (run / "server.safetensors").read_bytes() == (alone.path / "server.safetensors").read_bytes()
