"""Client actors by their places, from their very start."""

from pathlib import Path

import pytest
import ray

from flexray.errors import RunError
from flexray.sim.crew import Crew
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials

DIES = '''"""FedAvg that takes so many of Ray's processes along as it is loaded there."""
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from flexray.algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Dies(FedAvg):
    pass

if sys.argv[0].endswith("default_worker.py"):
    for number in range({many}):
        with suppress(FileExistsError):
            open(f"{folder}/{{number}}", "x").close()
            os.kill(os.getpid(), 9)
'''


@pytest.fixture
def job(ray_here, small, tmp_path):
    """Makes jobs of two client actors, of which so many are killed while they start."""

    def make(many: int, **faults):
        (died := tmp_path / "died").mkdir()
        (method := tmp_path / "dies.py").write_text(DIES.format(many=many, folder=died))
        x = small(
            resources={"backend": "ray", "cpu_per_client": 2},
            placement="pooled",
            faults=faults,
            algorithm={"name": str(method)},
        )
        return prepare(x, {"CPU": 4.0}, tmp_path / "private", Trials("nothing"))[0], died

    return make


def killed(died: Path) -> int:
    return len([*died.iterdir()])


def test_actors_that_are_killed_while_they_start_are_replaced(job):
    asked, died = job(2)
    crew = Crew(asked)
    assert killed(died) == sum(crew.lives) == 2
    assert len(set(ray.get([host.up.remote() for host in crew.hosts]))) == 2
    crew.close()


def test_but_not_for_ever(job):
    asked, died = job(9, restarts=1)
    with pytest.raises(RunError, match="a client actor failed to start: its process died"):
        Crew(asked)
    assert 2 <= killed(died) <= 4
