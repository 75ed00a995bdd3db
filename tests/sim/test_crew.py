"""Client actors by their places, from their very start."""

from threading import Thread
from time import monotonic, sleep

import psutil
import pytest
import ray

from flexray.errors import RunError
from flexray.sim.crew import Crew
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials


@pytest.fixture
def job(ray_here, small, tmp_path):
    """Makes jobs of two client actors."""

    def make(**faults):
        x = small(resources={"backend": "ray", "cpu_per_client": 2}, placement="pooled", faults=faults)
        return prepare(x, {"CPU": 4.0}, tmp_path / "private", Trials("nothing"))[0]

    return make


def killing(many: int) -> Thread:
    """Kills so many client actors, each as soon as it is there."""

    def kill() -> None:
        killed, until = set[int](), monotonic() + 60
        while len(killed) < many and monotonic() < until:
            for p in psutil.Process().children(recursive=True):
                if p.pid not in killed and p.is_running() and "ray::ClientHost" in " ".join(p.cmdline()):
                    killed.add(p.pid)
                    p.kill()
                    break
            sleep(0.02)

    thread = Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_an_actor_that_is_killed_while_it_starts_is_replaced(job):
    thread = killing(1)
    crew = Crew(job())
    thread.join()
    assert sum(crew.lives) == 1
    assert len(set(ray.get([host.ready.remote() for host in crew.hosts]))) == 2
    crew.close()


def test_but_not_for_ever(job):
    thread = killing(2)
    with pytest.raises(RunError, match="a client actor failed to start: its process died"):
        Crew(job(restarts=1))
    thread.join()
