"""Client actors that die: the run says so, and goes on to the same bytes."""

import os
import signal

import psutil
import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.errors import RunError
from flexray.sim.run import RoundDone


def kill_a_client() -> None:
    """SIGKILL for one client actor of this very process's Ray."""
    hosts = [p for p in psutil.Process().children(recursive=True) if "ray::ClientHost" in " ".join(p.cmdline())]
    os.kill(hosts[0].pid, signal.SIGKILL)


def test_a_killed_actor_ends_the_run_which_can_be_resumed(ray_here, small, tmp_path):
    x = small(rounds=3, resources={"backend": "ray", "cpu_per_client": 2})

    def watch(event):
        if isinstance(event, RoundDone) and event.report.round == 0:
            kill_a_client()

    with pytest.raises(RunError, match=r"round [12]: client actor \d \(process \d+\) failed.*\n.*--resume"):
        api.simulate(x, tmp_path / "run", watch=watch)
    assert not (tmp_path / "run" / "summary.json").exists()
    api.resume(tmp_path / "run")
    api.simulate(small(rounds=3), tmp_path / "whole")
    resumed, whole = (load_file(tmp_path / name / "server.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(t, resumed[name]) for name, t in whole.items())
