"""What many tests share: one cache, one Ray, and experiments that take seconds."""

import os
from pathlib import Path

import pytest

from flexray.config import Experiment

SMALL = {
    "rounds": 2,
    "clients": 3,
    "data": {"max_train_rows": 12, "max_valid_rows": 4, "max_test_rows": 4},
    "train": {"steps": 2, "batch": 2},
    "algorithm": {"name": "flex", "graft": {"calibration_rows": 4}},
    "resources": {"backend": "inline"},
}

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: more threads would only fight over cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, a file's tests stay together, and all that need Ray: there is one Ray, in one of the processes."""
    on_ray = {item.path for item in items if "ray_here" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in on_ray else str(item.path)))


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` laid over it, section by section."""
    both = dict(base)
    for key, value in changes.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache of converted models and tokenised data for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small(cache):
    """Makes a small experiment on the built-in model and data: `small(rounds=3, algorithm={"name": "fedavg"})`."""

    def make(**changes) -> Experiment:
        algorithm = changes.pop("algorithm", None)
        values = merged(merged(SMALL, {"storage": {"cache": str(cache)}}), changes)
        return Experiment(**(values | ({"algorithm": algorithm} if algorithm else {})))

    return make


@pytest.fixture(scope="session")
def ray_here():
    """One local Ray for the whole session, closed at its end."""
    from flexray import cluster

    with cluster.start("local", num_cpus=4, object_store_memory=200 << 20):
        yield
