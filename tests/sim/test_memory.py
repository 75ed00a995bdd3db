"""What plans say of memory against what runs then take: a plan that passes never runs out of it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flexray import api
from flexray.sim.events import RoundDone
from flexray.sim.planning.gauge import Gauge
from flexray.sim.planning.plan import Plan, prepare
from flexray.sim.pool import InlinePool
from flexray.sim.run import run

FEW = {"max_train_rows": 24, "max_valid_rows": 4, "max_test_rows": 8}
LORA64 = {"name": "fedavg", "lora": {"rank": 64}}
CONFIGS = {
    "flex": {},
    "flex, one row": {"train": {"batch": 1}},
    "flex, 16 rows": {"train": {"batch": 16}},
    "flex, 16 rows recomputed": {"train": {"batch": 16, "recompute": True}},
    "flex, accumulated": {"train": {"batch": 4, "accumulate": 3}},
    "flex, two seats": {"seats": 2},
    "flex, four seats": {"seats": 4, "train": {"batch": 8}},
    "flex, chosen seats": {"cpus": 1.0, "train": {"batch": 2}},
    "flex, bfloat16": {"model": {"dtype": "bfloat16"}},
    "two experts": {"algorithm": {"name": "flex", "graft": {"experts": 2, "calibration_rows": 4}}},
    "adapters over experts": {"algorithm": {"name": "flex", "graft": {"train": "lora", "calibration_rows": 4}}, "seats": 3},
    "fedavg": {"algorithm": "fedavg", "train": {"batch": 8, "optimizer": "sgd"}},
    "fedavg, wide, two seats": {"algorithm": LORA64, "seats": 2},
    "long rows to score": {
        "algorithm": "fedavg",
        "train": {"batch": 1},
        "data": {"max_test_rows": 64},
        "evaluation": {"batch": 64},
    },
    "scaffold": {"algorithm": "scaffold", "train": {"optimizer": "sgd"}, "seats": 4},
    "ditto": {"algorithm": "ditto", "train": {"steps": None, "epochs": 0.5}},
    "flame": {"algorithm": "flame", "train": {"batch": 8}, "seats": 2},
    "fedmoe": {"algorithm": "fedmoe"},
    "flora": {"algorithm": "flora", "seats": 2},
    "fed_dpa, two seats": {"algorithm": "fed_dpa", "seats": 2},
    "central": {"algorithm": "central", "train": {"batch": 2}},
}


def peak(job, out) -> int:
    """Bytes that a run takes in this process, the backbone's pages among them."""
    gauge = Gauge("cpu")
    gauge.start()
    for _ in run(job, InlinePool, out):
        pass
    found = gauge.peak()
    assert found is not None
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_no_run_takes_more_than_its_plan_said(small, tmp_path, name):
    changes = {"clients": 4, "data": {}, **CONFIGS[name]}
    there = {"CPU": changes.pop("cpus", 4.0)}
    data = FEW | changes.pop("data")
    job, plan = prepare(small(**changes, data=data, rounds=1), there, tmp_path)
    (tmp_path / "run").mkdir()
    assert peak(job, tmp_path / "run") <= plan.memory.more  # this process is there already


@pytest.mark.slow
def test_memory_of_a_run_on_ray_comes_true(small, tmp_path):
    """To a quarter: of every actor, and of all that is started. Pages that several processes share are charged to each in part."""
    seen: list[dict[str, int]] = []

    def watch(event):
        if isinstance(event, Plan):
            told.append(event)
        if isinstance(event, RoundDone):
            seen.append(_processes())

    told: list[Plan] = []
    api.simulate(
        small(clients=4, seats=2, rounds=3, train={"steps": 4}, resources={"backend": "ray"}), tmp_path / "run", watch=watch
    )
    said = told[0].memory
    actors = [max(each[name] for each in seen if name in each) for name in seen[-1] if "ClientHost" in name]
    assert len(actors) == said.actors == 2
    assert all(a == pytest.approx(said.actor, rel=0.25) for a in actors)
    assert max(sum(each.values()) for each in seen) == pytest.approx(said.more, rel=0.25)


def _processes() -> dict[str, int]:
    """What runs below this process, by what it is called, with its bytes; not those that wait for work."""
    parents, own = dict(_all()), {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    found = {}
    for pid in own - {os.getpid()}:
        with suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_text().split(chr(0))[0]
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if not name.startswith("ray::IDLE"):
                found[f"{name} {pid}"] = next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return found


def _all() -> Iterator[tuple[int, int]]:
    """Every process and its parent."""
    for p in Path("/proc").iterdir():
        if p.name.isdigit():
            with suppress(OSError):
                yield int(p.name), int((p / "stat").read_text().rpartition(")")[2].split()[1])
