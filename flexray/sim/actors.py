"""Ray's part: client actors, the pool of them, and the driver actor that runs the rounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from flexray.errors import ConfigError, RunError
from flexray.sim.host import ClientHost
from flexray.sim.job import Job
from flexray.sim.reports import Gathered, Scores, SliceReport
from flexray.sim.round import Exam, Task
from flexray.sim.run import Event, run
from flexray.sim.schedule import Group
from flexray.state import State

START_SECONDS = 300.0
IN_FLIGHT = 2
"""Tasks queued at an actor: one at work and one ready, so that it never waits for the driver."""


class RayPool:
    """Client actors, each with its share of a node. Tasks go to whoever is free; with one client per actor, to its own."""

    def __init__(self, job: Job):
        layout, self.job = job.layout, job
        # No task retries: Ray would re-run the call on a fresh object. A client that dies ends the run, which can be resumed.
        actor: Any = ray.remote(ClientHost)
        actor = actor.options(num_cpus=layout.cpu, num_gpus=layout.gpu, max_restarts=0, max_task_retries=0)
        self.hosts: list[Any] = [actor.remote(job) for _ in range(layout.actors)]
        self.actors = layout.actors
        try:
            with _blame("a client actor failed to start"):
                self.pids = ray.get([h.ready.remote() for h in self.hosts], timeout=START_SECONDS)
        except BaseException:
            self.close()
            raise

    def open(self) -> np.ndarray:
        with _blame("the first client actor failed"):
            return ray.get(self.hosts[0].open.remote())

    def survey(self, groups: Sequence[Group]) -> Iterator[dict[int, State]]:
        def call(host: Any, i: int) -> Sequence[Any]:
            return [host.survey.remote(groups[i])]

        for _, (told,) in self._spread([group[0] for group in groups], call, 0):
            yield told

    def train(self, task: Task) -> Iterator[tuple[int, Gathered, SliceReport]]:
        sent = [ray.put(vector) for vector in task.sent]

        def call(host: Any, i: int) -> Sequence[Any]:
            s = task.slices[i]
            return host.train.options(num_returns=2).remote(task.round, s.groups, sent[s.cluster], task.rows[s.cluster])

        for i, (gathered, report) in self._spread([s.groups[0][0] for s in task.slices], call, task.round):
            yield i, gathered, report

    def evaluate(self, exam: Exam) -> Iterator[Scores]:
        sent = [ray.put(vector) for vector in exam.sent]

        def call(host: Any, i: int) -> Sequence[Any]:
            return [host.evaluate.remote(exam.round, exam.groups[i], sent[exam.clusters[i]], exam.views)]

        for _, (scores,) in self._spread([group[0] for group in exam.groups], call, exam.round):
            yield scores

    def _spread(
        self, first: Sequence[int], call: Callable[[Any, int], Sequence[Any]], round: int
    ) -> Iterator[tuple[int, Sequence[Any]]]:
        """Runs call(host, i) for each task i, whose first client is first[i]; yields (i, results) as they finish."""
        queues = self._queues(first)
        pending: dict[Any, tuple[int, int, Sequence[Any]]] = {}

        def submit(a: int) -> None:
            if queues[a]:
                i = queues[a].popleft()
                refs = call(self.hosts[a], i)
                pending[refs[-1]] = (a, i, refs)

        for _ in range(IN_FLIGHT):
            for a in range(self.actors):
                submit(a)
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            a, i, refs = pending.pop(done)
            with _blame(f"round {round}: client actor {a} (process {self.pids[a]}) failed"):
                results = ray.get(list(refs))
            submit(a)
            yield i, results

    def _queues(self, first: Sequence[int]) -> list[deque[int]]:
        """What each actor takes its tasks from: its own clients' with one client per actor, else one queue for all."""
        if self.job.layout.placement == "one_per_client":
            return [deque(i for i, client in enumerate(first) if client % self.actors == a) for a in range(self.actors)]
        return [deque(range(len(first)))] * self.actors

    def close(self) -> None:
        for host in self.hosts:
            ray.kill(host)


class Driver:
    """The driver actor: owns the server's state, aggregates what comes through the object store, keeps the run folder."""

    def events(self, job: Job, out: Path, resume: bool) -> Iterator[Event]:
        """Runs to the end; a stream of events, one object each."""
        yield from run(job, RayPool, out, resume)


def simulate(job: Job, out: Path, resume: bool = False) -> Iterator[Event]:
    """The run in a driver actor, its events as they happen. Raises RunError or ConfigError as the driver did."""
    actor: Any = ray.remote(Driver)
    driver = actor.options(num_cpus=0, max_restarts=0, max_task_retries=0).remote()
    stream = driver.events.options(num_returns="streaming").remote(job, out, resume)
    try:
        with _blame("the driver failed"):
            for ref in stream:
                yield ray.get(ref)
    finally:
        ray.kill(driver)


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Ray's errors leave as our own, in one line; an error of ours inside one is raised as it was."""
    try:
        yield
    except RayTaskError as e:
        raise e.cause if isinstance(e.cause, (ConfigError, RunError)) else RunError(f"{what}: {e.cause!r}") from e
    except RayError as e:
        reason = str(e).strip().split("\n")[0]
        raise RunError(f"{what}: {type(e).__name__}: {reason}") from e
