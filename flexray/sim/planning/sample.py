"""Rows that stand for all clients' rows: average ones, whose lengths are spread as those of all, and the heaviest to expect."""

from __future__ import annotations

from functools import cached_property
from math import sqrt
from statistics import median_high

import numpy as np

from flexray.data.corpus import Corpus
from flexray.sim.job import Job

LOOKED_AT = 256
"""Of so many clients, evenly spaced, rows are looked at."""
DEVIATIONS = 4
"""A batch that is longer than the mean by more than so many standard deviations is not expected."""


class Rows:
    """The lengths of a job's rows, every client's counting alike."""

    def __init__(self, job: Job):
        self.train = job.experiment.train
        self.together = job.cohort if job.algorithm.pooled else 1  # so many clients' batches make one step
        self.corpus = Corpus(job.corpus)
        self.lengths = self.corpus.lengths
        those = job.trainees[len(job.clients) :] or job.clients
        self.clients = [those[int(i)] for i in np.linspace(0, len(those) - 1, min(len(those), LOOKED_AT))]

    def typical(self, split: str) -> int:
        """How many rows the middle client has."""
        return int(median_high(len(getattr(c, split)) for c in self.clients))

    def sample(self, split: str, count: int) -> np.ndarray:
        """[count] rows, evenly over the lengths of all: their mean is that of the clients' means."""
        pool = np.concatenate([getattr(c, split) for c in self.clients])
        weight = np.concatenate([np.full(len(own), 1 / len(own)) for own in (getattr(c, split) for c in self.clients)])
        order = np.argsort(self.lengths[pool], kind="stable")
        reached = np.cumsum(weight[order]) / weight.sum()
        return np.sort(pool[order[np.searchsorted(reached, (np.arange(count) + 0.5) / count)]])

    def longest(self, split: str, count: int) -> np.ndarray:
        """[count or fewer] rows."""
        pool = np.unique(np.concatenate([getattr(c, split) for c in self.clients]))
        return np.sort(pool[np.argsort(-self.lengths[pool], kind="stable")[:count]])

    def heavy(self, count: int) -> np.ndarray:
        """[count] train rows of like length, with together as many tokens as the heaviest batch of that many."""
        pool = np.unique(np.concatenate([c.train for c in self.clients]))
        far = np.abs(self.lengths[pool] - self.heavy_tokens / self.train.batch)
        return np.sort(np.resize(pool[np.argsort(far, kind="stable")[:count]], count))

    @property
    def batch_tokens(self) -> float:
        """Of an average client's batch."""
        return self.train.batch * float(np.mean([self.lengths[c.train].mean() for c in self.clients]))

    @property
    def step_tokens(self) -> float:
        """Of an average local step."""
        return self.batch_tokens * self.train.accumulate * self.together

    @cached_property
    def heavy_tokens(self) -> float:
        """Of the heaviest batch that one client is to be expected to have."""
        return max(self._heaviest(self.lengths[c.train]) for c in self.clients)

    @cached_property
    def answered(self) -> float:
        """The share of tokens that are responses."""
        pool = np.unique(np.concatenate([c.train for c in self.clients]))
        rows = self.corpus.rows(pool[np.linspace(0, len(pool) - 1, min(len(pool), LOOKED_AT)).astype(int)])
        return sum(len(tokens) - start for tokens, start in rows) / sum(len(tokens) for tokens, _ in rows)

    def _heaviest(self, lengths: np.ndarray) -> float:
        b = self.train.batch
        most = np.resize(np.sort(lengths)[::-1][:b], b).sum()
        return float(min(most, b * lengths.mean() + DEVIATIONS * sqrt(b) * lengths.std()))
