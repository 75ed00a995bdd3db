"""Who writes is alone, and whoever comes next waits for the dead."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from flexray.errors import ConfigError, RunError
from flexray.sim.crew import Crew
from flexray.sim.holding import LEADER, alone, gone, leading
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials

HOLD = """
import sys, time
from pathlib import Path
from flexray.sim.holding import alone, leading
from flexray.sim.turns import Turns
with {}:
    print("held", flush=True)
    time.sleep(60)
"""


def holding(what: str, path: Path) -> subprocess.Popen[str]:
    """A process that holds it for a minute, unless it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(what), str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    """Nothing tidies up after it."""
    process.kill()
    process.communicate()


def test_a_folder_that_another_process_has_is_refused_until_that_is_gone(tmp_path):
    process = holding("alone(Path(sys.argv[1]), '--out')", tmp_path)
    with (
        pytest.raises(ConfigError, match="--resume: expected a sweep that is not running") as e,
        alone(tmp_path, "--resume", "sweep"),
    ):
        raise AssertionError("two have it")
    assert f"which process {process.pid} plays" in str(e.value)
    killed(process)
    began = monotonic()
    with alone(tmp_path, "--resume", patience=10):
        assert monotonic() - began < 5
    with alone(tmp_path, "--resume"):
        assert list(tmp_path.iterdir()) == []


def test_a_run_has_one_leader_and_the_next_one_waits_until_it_is_dead(tmp_path):
    process = holding("leading(Path(sys.argv[1]))", tmp_path)
    with pytest.raises(RunError, match=f"process {process.pid} on .* still leads this run"), leading(tmp_path, 0.2):
        raise AssertionError("two lead it")
    os.kill(process.pid, signal.SIGSTOP)  # it hangs: it may wake up, and write
    with pytest.raises(RunError, match="still leads"), leading(tmp_path, 0.2):
        raise AssertionError("two lead it")
    killed(process)
    assert (tmp_path / LEADER).exists()  # it left this behind, which locks nothing
    with leading(tmp_path, 5):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_mark_is_locked_as_long_as_its_process_lives(tmp_path):
    process = holding("__import__('contextlib').nullcontext(Turns(['a'], True, Path(sys.argv[1])))", tmp_path / "0.0")
    assert not gone([tmp_path / "0.0"], 0.2)
    killed(process)
    assert gone([tmp_path / "0.0", tmp_path / "none"], 5)


def test_new_actors_wait_for_those_of_a_driver_that_is_dead(ray_here, small, tmp_path, monkeypatch):
    """They would write the same clients' files; afterwards nothing is left of either."""
    resources = {"backend": "ray", "cpu_per_client": 2}
    job, _ = prepare(small(resources=resources, placement="pooled"), {"CPU": 4.0}, tmp_path / "private", Trials("nothing"))
    job.private.mkdir(parents=True)
    (marks := job.private / ".actors-before").mkdir()
    process = holding("__import__('contextlib').nullcontext(Turns(['a'], True, Path(sys.argv[1])))", marks / "0.0")
    with monkeypatch.context() as m, pytest.raises(RunError, match=r"client actors of before.*still alive"):
        m.setattr(gone, "__defaults__", (0.2,))
        Crew(job)
    killed(process)
    crew = Crew(job)
    mine = [f for f in job.private.glob(".actors-*/*") if f.suffix != ".late"]
    assert len(mine) == job.layout.actors and not marks.exists() and not gone(mine, 0.1)
    crew.close()
    assert list(job.private.iterdir()) == []
