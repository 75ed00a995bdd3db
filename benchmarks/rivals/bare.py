"""The no-op of `overhead.py` in bare Ray: actors that are pushed a slice of the cohort and return a partial sum.

One put of the shared numbers per round; a client always goes to the same actor, which keeps what it owns in memory.
With `--each` there is one call per client, whose update comes back, and the driver adds them up as they come: what one
would write first.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import ray

from benchmarks.rivals.task import Task, answer, asked


class Worker:
    """One actor with its clients."""

    def __init__(self, task: Task):
        self.task = task
        self.buffer, self.own = np.empty(task.numbers, np.float32), dict[int, np.ndarray]()

    def ready(self) -> None:
        """Answers once the process is up."""

    def train(self, sent: np.ndarray, clients: Sequence[int]) -> np.ndarray:
        """[P] the weighted sum of these clients."""
        total = np.zeros_like(sent)
        for client in clients:
            total += self.update(sent, client)
        return total

    def update(self, sent: np.ndarray, client: int) -> np.ndarray:
        """[P] one client's, weighted; the buffer is the next one's too."""
        np.copyto(self.buffer, sent)
        self.task.train(client, self.buffer)
        self.buffer *= self.task.shares[client]
        if self.task.owned:
            self.own[client] = self.task.next_own(self.own.get(client))
        return self.buffer

    def mine(self, client: int) -> float | None:
        """A number that a client owns."""
        return float(self.own[client][0]) if self.own else None


def parts(workers: Sequence[Any], ref: Any, count: int, each: bool) -> Iterator[np.ndarray]:
    """The partial sums of a round as they come."""
    if each:
        pending = [workers[k % len(workers)].update.remote(ref, k) for k in range(count)]
    else:
        pending = [w.train.remote(ref, range(a, count, len(workers))) for a, w in enumerate(workers)]
    while pending:
        (done,), pending = ray.wait(pending, num_returns=1)
        yield ray.get(done)


def main() -> None:
    task, out = asked()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=task.actors, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    count = len(task.rows)
    actor: Any = ray.remote(num_cpus=1)(Worker)
    workers = [actor.remote(task) for _ in range(min(task.actors, count))]
    ray.get([w.ready.remote() for w in workers])
    sent, seconds = task.start(), []
    for _ in range(task.rounds):
        started = perf_counter()
        ref = ray.put(sent)
        sent = np.zeros_like(sent)
        for part in parts(workers, ref, count, "--each" in sys.argv):
            sent += part
        seconds.append(perf_counter() - started)
    answer(task, out, seconds, sent, ray.get(workers[0].mine.remote(0)))
    ray.shutdown()


if __name__ == "__main__":
    main()
