"""Ray's part: client actors, the pool of them, and the driver actor that runs the rounds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from flexray.errors import ConfigError, RunError
from flexray.sim.events import Event, Progress
from flexray.sim.host import LARGE, ClientHost
from flexray.sim.job import Job
from flexray.sim.merging import Merging
from flexray.sim.pool import Scored, Trained, asked
from flexray.sim.queues import Queues
from flexray.sim.reports import Sum
from flexray.sim.run import run
from flexray.sim.schedule import Group
from flexray.sim.work import Scoring, Task, Training, Work, bound
from flexray.state import State

T = TypeVar("T")

START_SECONDS = 300.0
IN_FLIGHT = 2
"""Tasks queued at an actor: one at work and one ready, so that it never waits for the driver."""
MOVING_SECONDS = 0.05
"""Where a client takes less, it stays with its actor: to read its state elsewhere, or to send another sum, would take as long."""
QUIET_SECONDS = 0.1
"""Progress is told no more often than this."""


class RayPool:
    """Client actors, each with its share of a node. Each trains its part of a round, and then what others have left; with one client per
    actor, its own only."""

    def __init__(self, job: Job):
        layout, self.bound = job.layout, bound(job)
        # No task retries: Ray would re-run the call on a fresh object. A client that dies ends the run, which can be resumed.
        actor: Any = ray.remote(ClientHost)
        actor = actor.options(num_cpus=layout.cpu, num_gpus=layout.gpu, max_restarts=0, max_task_retries=0)
        shared = ray.put(job)
        self.hosts: list[Any] = [actor.remote(shared, behind=True) for _ in range(layout.actors)]
        self.actors = layout.actors
        self._settling: dict[int, Any] = {}
        self._round = 0
        self.pace = inf
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
        queues = self._queues(groups, [group[0] for group in groups])
        for _, told in self._spread(queues, lambda a, group, _: self.hosts[a].survey.remote(group), lambda _: None):
            yield told

    def play(self, work: Work) -> Iterator[Trained | Scored | Sum]:
        sent, self._round = [ray.put(work.sent(cluster)) for cluster in range(work.clusters)], work.round
        merging = Merging(self.actors, among=work.wire.bytes() > LARGE)

        def call(a: int, task: Task, then: Task | None) -> Any:
            more = {"known": work.owning(task.groups), "ahead": work.states(then.groups[:1]) if then else ()}
            if isinstance(task, Scoring):
                return self.hosts[a].score.remote(work.round, task.groups, sent[task.cluster], task.views, **more)
            return self.hosts[a].train.remote(
                work.round, task.groups, sent[task.cluster], work.rows[task.cluster], **asked(task), **more
            )

        def end(a: int) -> tuple[int, Any] | None:
            if (merge := merging.ready(a)) is None:
                return None
            giver = self.hosts[merge.giver]
            sums, self._settling[merge.giver] = giver.gather.remote(), giver.settle.remote(work.ahead(merge.giver))
            if merge.taker is None:
                return merge.giver, sums
            return merge.taker, self.hosts[merge.taker].absorb.remote(work.round, sums)

        queues = self._queues(
            work.scoring, [task.groups[0][0] for task in work.scoring], work.training, self.pace < MOVING_SECONDS
        )
        seconds, clients = 0.0, 0
        for task, result in self._spread(queues, call, end):
            if isinstance(task, Training):
                seconds, clients = seconds + result[1].seconds, clients + len(result[1].clients)
                yield Trained(task, *result)
            elif task is not None:
                yield Scored(task, result)
            else:
                yield from result or ()
            del result
        self.pace = seconds / clients if clients else self.pace

    def settle(self) -> None:
        for a, done in self._settling.items():
            with self._blame(a):
                ray.get(done)
        self._settling = {}

    def close(self) -> None:
        for host in self.hosts:
            ray.kill(host)

    def _spread(
        self, queues: Queues[T], call: Callable[[int, T, T | None], Any], end: Callable[[int], tuple[int, Any] | None]
    ) -> Iterator[tuple[T | None, Any]]:
        """Runs call(actor, task, the one that may follow there) for each task; and end(actor) whenever an actor has nothing left to do,
        which gives what is still to be waited for, and whose it is. Yields tasks (None for those ends) and results as they finish."""
        pending: dict[Any, tuple[int, T | None]] = {}

        def more(a: int) -> None:
            if (task := queues.take(a)) is not None:
                pending[call(a, task, queues.peek(a))] = a, task

        def idle(a: int) -> None:
            if a not in [b for b, _ in pending.values()] and (left := end(a)):
                pending[left[1]] = left[0], None

        for a in [*range(self.actors)] * IN_FLIGHT:
            more(a)
        for a in range(self.actors):
            idle(a)
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            a, task = pending.pop(done)
            with self._blame(a):
                result = ray.get(done)
            if task is not None:
                more(a)
            if task is not None or result is None:
                idle(a)
            del done  # with the result, it would keep memory of the object store until the next one comes
            yield task, result
            del result

    def _queues(
        self, tasks: Sequence[Any], clients: Sequence[int], own: Sequence[Sequence[Any]] = (), bound: bool = False
    ) -> Queues[Any]:
        """Tasks that begin with these clients, for whoever is free, or where these are at home; and behind them each actor's own."""
        if not self.bound:
            return Queues(tasks, own, bound)
        home = [
            [task for task, client in zip(tasks, clients, strict=True) if client % self.actors == a] for a in range(self.actors)
        ]
        return Queues((), [[*mine, *more] for mine, more in zip_longest(home, own, fillvalue=())], bound=True)

    def _blame(self, a: int) -> AbstractContextManager[None]:
        return _blame(f"round {self._round}: client actor {a} (process {self.pids[a]}) failed")


class Driver:
    """The driver actor: owns the server's state, aggregates what comes through the object store, keeps the run folder."""

    def events(self, job: Job, out: Path, resume: bool) -> Iterator[Event]:
        """Runs to the end; a stream of events, one object each."""
        gc.freeze()  # see ClientHost.ready
        yield from seldom(run(job, RayPool, out, resume))


def seldom(events: Iterator[Event], quiet: float = QUIET_SECONDS) -> Iterator[Event]:
    """The same, but progress that follows soon is told together: each event takes the driver as long as a task does."""
    held: Progress | None = None
    told = 0.0
    for event in events:
        if isinstance(event, Progress):
            held = held.plus(event) if held else event
            if perf_counter() - told < quiet:
                continue
            event = held
        elif held:
            yield held
        held, told = None, perf_counter()
        yield event
    if held:
        yield held


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
