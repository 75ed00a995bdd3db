"""A job without a model or a corpus: what is scheduled, counted and kept needs neither."""

from ast import literal_eval
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from flexray.config import Experiment
from flexray.data.clients import Client
from flexray.sim.job import Costs, Job, Layout
from flexray.sim.system.fleet import fleet
from flexray.sim.system.timeline import updates

SHAPES = {"lora/model.q/a": (2, 3), "lora/model.q/b": (4, 2)}


@cache
def _experiment(told: str) -> Experiment:
    return Experiment(**literal_eval(told))


@pytest.fixture
def bare_job(tmp_path):
    """Makes jobs: `bare_job(rows=[3, 9], seats=2)` has two clients with so many train rows of ten tokens each. A client has as many
    test rows as its number says."""

    def make(
        rows, *, seats: int = 1, actors: int = 2, placement: str = "pooled", private: Path | None = None, **settings
    ) -> Job:  # fmt: skip
        settings = {"clients": len(rows), "algorithm": {"name": "fedavg"}} | settings
        clients = tuple(Client(f"c{i}", np.arange(n), np.arange(2), np.arange(i), 0, {}) for i, n in enumerate(rows))
        x = _experiment(repr(settings))
        job = Job(
            spec=x.spec(),
            layout=Layout(placement, actors, seats, 1, "cpu", 1.0, 0.0),
            backbone=tmp_path / "backbone",
            corpus=tmp_path / "corpus",
            private=private or tmp_path / "private",
            clients=clients,
            shapes=SHAPES,
            cohort=updates(x, len(clients)),
            costs=Costs(1, 1, {}),
            fleet=fleet(x.system, [c.name for c in clients], x.seed),
        )
        job.__dict__["experiment"] = x
        job.__dict__["lengths"] = {
            split: np.array([10 * len(getattr(c, split)) for c in job.trainees]) for split in ("train", "valid", "test")
        }
        return job

    return make
