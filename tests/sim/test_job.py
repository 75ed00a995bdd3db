"""A job as it crosses to other processes."""

import pickle

import numpy as np

from flexray.data.clients import Client
from flexray.sim.planning.plan import prepare


def test_a_pickled_job_is_the_same_job(small, tmp_path):
    job, _ = prepare(small(), {"CPU": 4.0}, tmp_path)
    assert job.experiment is job.experiment  # what is made once is kept, and does not cross
    crossed = pickle.loads(pickle.dumps(job))
    assert "experiment" not in vars(crossed)
    assert crossed.experiment == job.experiment and crossed.shapes == job.shapes
    for a, b in zip(crossed.clients, job.clients, strict=True):
        assert (a.name, a.dropped, a.labels, a.digest()) == (b.name, b.dropped, b.labels, b.digest())
        assert a.train.dtype == b.train.dtype


def test_clients_without_rows_in_a_split_cross(small, tmp_path):
    job, _ = prepare(small(), {"CPU": 4.0}, tmp_path)
    none = np.zeros(0, np.int64)
    bare = Client("bare", np.arange(3), none, none, 1, {})
    object.__setattr__(job, "clients", (bare, *job.clients))
    crossed = pickle.loads(pickle.dumps(job)).clients
    assert [len(getattr(crossed[0], split)) for split in ("train", "valid", "test")] == [3, 0, 0] and crossed[0].dropped == 1
