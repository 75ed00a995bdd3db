"""Rows that stand for all: their mean lengths, and the heaviest batch to expect."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flexray.data.clients import Client
from flexray.sim.planning import sample
from flexray.sim.planning.sample import Rows

LENGTHS = np.array([10, 20, 30, 40, 100, 100])


@pytest.fixture
def rows(monkeypatch):
    def make(batch: int = 2, accumulate: int = 1, clients=None, pooled=False) -> Rows:
        def read(numbers):
            return [(np.zeros(LENGTHS[i], np.int32), int(LENGTHS[i]) * 3 // 4) for i in numbers]

        monkeypatch.setattr(sample, "Corpus", lambda _: SimpleNamespace(lengths=LENGTHS, rows=read))
        clients = clients or (client("a", [0, 1, 2, 3]), client("b", [4]))
        train = SimpleNamespace(batch=batch, accumulate=accumulate)
        job: Any = SimpleNamespace(
            cohort=5,
            algorithm=SimpleNamespace(pooled=pooled),
            corpus=None,
            clients=clients,
            trainees=clients,
            experiment=SimpleNamespace(train=train),
        )
        return Rows(job)

    return make


def client(name: str, train: list[int]) -> Client:
    return Client(name, np.array(train), np.array([0]), np.array([1, 5]), 0, {})


def test_clients_count_alike_however_many_rows_they_have(rows):
    assert rows(batch=2, accumulate=3).step_tokens == 6 * (25 + 100) / 2
    assert rows(batch=2, accumulate=3, pooled=True).step_tokens == 5 * 6 * (25 + 100) / 2  # five clients' at once
    assert rows(batch=2, accumulate=3, pooled=True).batch_tokens == 2 * (25 + 100) / 2
    # half of the sample is the second client's one row, the other half goes through the first one's
    assert rows().sample("train", 8).tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert rows().typical("test") == 2


def test_the_heaviest_batch_is_of_one_client_and_no_longer_than_its_longest_rows(rows):
    assert rows(batch=2).heavy_tokens == 200  # the second one's only row, twice
    only = (client("a", [0, 1, 2, 3]),)
    assert rows(batch=3, clients=only).heavy_tokens == 90  # 40 + 30 + 20: less than 75 + 4 · √3 · 11.2
    assert rows(batch=4, clients=only).heavy_tokens == 100


def test_long_batches_are_reckoned_by_their_spread(rows, monkeypatch):
    monkeypatch.setattr(sample, "DEVIATIONS", 0.5)
    only = (client("a", [0, 1, 2, 3]),)
    assert rows(batch=2, clients=only).heavy_tokens == pytest.approx(50 + 0.5 * 2**0.5 * 125**0.5)  # variance 500/4


def test_heavy_rows_are_of_like_length(rows):
    only = (client("a", [0, 1, 2, 3]),)
    # a batch of 3 is at most 90: rows of 30 each
    assert rows(batch=3, clients=only).heavy(1).tolist() == [2]
    assert sorted(LENGTHS[rows(batch=3, clients=only).heavy(3)]) == [20, 30, 40]
    assert len(rows(batch=2, clients=(client("b", [4]),)).heavy(6)) == 6


def test_longest_and_answered(rows):
    assert rows().longest("test", 1).tolist() == [5]
    assert rows().longest("test", 9).tolist() == [1, 5]
    # responses are the last quarter: 3 + 5 + 8 + 10 + 25 of 200 tokens
    assert rows().answered == 51 / 200
