"""Ray's part: client actors, the pool of them, and the driver actor that runs the rounds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from flexray.errors import ConfigError, RunError
from flexray.sim import nodes
from flexray.sim.crew import FETCH_SECONDS, START_SECONDS, Crew, reason
from flexray.sim.events import Event, Progress, RoundDone, Started
from flexray.sim.failure import Doing, Trouble
from flexray.sim.host import LARGE
from flexray.sim.job import Job
from flexray.sim.merging import Merging
from flexray.sim.pool import Scored, Trained, asked, told
from flexray.sim.queues import Queues
from flexray.sim.redo import Redo, Surveying
from flexray.sim.reports import Sum
from flexray.sim.run import run
from flexray.sim.schedule import Group
from flexray.sim.spread import Spread
from flexray.sim.work import Scoring, Task, Work, bound
from flexray.state import State

MOVING_SECONDS = 0.05
"""Where a client takes less, it stays with its actor: to read its state elsewhere, or to send another sum, would take as long."""
QUIET_SECONDS = 0.1
"""Progress is told no more often than this."""
POLL_SECONDS = 2.0
"""Between looking whether Ray itself is still there."""
GIVE_SECONDS = 3600.0
"""For an actor to write what its clients own and to give its sums away, or to take another's."""
SLACK = 60.0
"""Seconds more than all clients of a task may take, and a quarter of these: until then an actor ends by itself."""


class RayPool:
    """Client actors, each with its share of a node. Each trains its part of a round, and then what others have left; with one client per
    actor, its own only. What an actor that dies had done is done once more."""

    def __init__(self, job: Job, grows: bool = False):
        """grows: see `Crew`."""
        self.job, self.bound = job, bound(job)
        self.crew = Crew(job, grows)
        self.pace, self._slowest = inf, dict[Doing, float]()

    @property
    def actors(self) -> int:
        """Places for them."""
        return len(self.crew.lives)

    @property
    def replaced(self) -> int:
        return sum(self.crew.lives)

    def open(self) -> np.ndarray:
        redo = Surveying(self.job)
        queues = Queues(["open"], ())
        spread = Spread(self.crew, queues, redo, lambda a, *_: (self.crew.hosts[a].open.remote(), START_SECONDS))
        (vector,) = [what[1] for what in spread.run() if isinstance(what, tuple)]
        return vector

    def survey(self, groups: Sequence[Group]) -> Iterator[dict[int, State]]:
        redo, hosts = Surveying(self.job), self.crew.hosts

        def do(a: int, group: Group, _: Any) -> tuple[Any, float | None]:
            patience = redo.patience(group)
            return hosts[a].survey.remote(group, patience), _in_all(patience, len(group))

        queues = self._queues(groups, [group[0] for group in groups])
        for what in Spread(self.crew, queues, redo, do, home=lambda group: self._home(group[0])).run():
            if isinstance(what, tuple):
                yield what[1]

    def play(self, work: Work) -> Iterator[Trained | Scored | Sum | Trouble]:
        self.crew.grow(-(-len(work.training_clients) // self.job.layout.seats))
        sent, hosts = [ray.put(work.sent(cluster)) for cluster in range(work.clusters)], self.crew.hosts
        redo = Redo(self.job, work, self._slowest)

        def do(a: int, task: Task, then: Task | None) -> tuple[Any, float | None]:
            patience, many = redo.patience(task), sum(map(len, task.groups))
            more = {
                "known": work.owning(task.groups),
                "ahead": work.states(then.groups[:1]) if then else (),
                "patience": patience,
            }
            if isinstance(task, Scoring):
                call = hosts[a].score.remote(work.round, task.groups, sent[task.cluster], task.views, **more)
            else:
                call = hosts[a].train.remote(
                    work.round, task.groups, sent[task.cluster], work.rows[task.cluster], **asked(task), **more
                )
            return call, _in_all(patience, many)

        spread = Spread(
            self.crew,
            self._queues(work.scoring, [task.groups[0][0] for task in work.scoring], work.training, self.pace < MOVING_SECONDS),
            redo,
            do,
            Merging(self.crew.nodes(), among=work.wire.bytes() > LARGE),
            give=lambda a: hosts[a].give.remote(work.ahead(a)),
            absorb=lambda a, sums: hosts[a].absorb.remote(work.round, sums),
            home=lambda task: self._home(task.groups[0][0]),
            patience=None if redo.faults.client_seconds is None else GIVE_SECONDS,
        )
        yield from self._paced(told(spread.run(), redo))

    def settle(self) -> None:
        """All is at rest: before an actor gives its sums, and there is no round without them."""

    def close(self) -> None:
        self.crew.close()

    def _paced(self, results: Iterator[Trained | Scored | Sum | Trouble]) -> Iterator[Trained | Scored | Sum | Trouble]:
        """The same; and learns how long a client takes."""
        seconds, clients = 0.0, 0
        for result in results:
            if isinstance(result, Trained):
                seconds, clients = seconds + result.report.seconds, clients + len(result.report.clients)
            yield result
            del result
        self.pace = seconds / clients if clients else self.pace

    def _home(self, client: int) -> int | None:
        return client % self.actors if self.bound else None

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


def _in_all(patience: float | None, clients: int) -> float | None:
    return None if patience is None else 1.25 * patience * clients + SLACK


class Driver:
    """The driver actor: owns the server's state, aggregates what comes through the object store, keeps the run folder."""

    def events(self, job: Job, out: Path, resume: bool, grows: bool) -> Iterator[Event]:
        """Runs to the end; a stream of events, one object each."""
        gc.freeze()  # see ClientHost.ready
        yield from seldom(run(job, partial(RayPool, grows=grows), out, resume))


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


def simulate(
    job: Job, out: Path, resume: bool = False, dead: Callable[[], list[str]] = list, grows: bool = False
) -> Iterator[Event]:
    """The run in a driver actor on this very node, its events as they happen. Raises RunError or ConfigError as the driver did, or
    RunError if of Ray's own processes some are `dead`. grows: see `Crew`."""
    actor: Any = ray.remote(Driver)
    here = nodes.this_node()  # where the run's folder and the cache are
    driver = actor.options(num_cpus=0, max_restarts=0, max_task_retries=0, scheduling_strategy=here).remote()
    stream = driver.events.options(num_returns="streaming").remote(job, out, resume, grows)
    where = "before the first round"
    try:
        while True:
            with _blame(f"{where}: the driver, which leads the run, failed"):
                event = _next(stream, dead, where)
            if event is None:
                return
            if isinstance(event, (Started, RoundDone)):
                coming = event.round if isinstance(event, Started) else event.report.round + 1
                where = f"round {coming}" if coming < job.experiment.rounds else "the last evaluation"
            yield event
    finally:
        if not dead():
            ray.kill(driver)


def _next(stream: Any, dead: Callable[[], list[str]], where: str) -> Event | None:
    """The next event; None at the end."""
    while not ray.wait([stream], timeout=POLL_SECONDS)[0]:
        if gone := dead():
            raise RunError(
                f"{where}: Ray itself has died: {', '.join(gone)} on this machine; was it killed, or is memory short?"
            )
    ref = next(stream, None)
    return None if ref is None else ray.get(ref, timeout=FETCH_SECONDS)


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Ray's errors leave as our own, in one line; an error of ours inside one is raised as it was."""
    try:
        yield
    except RayTaskError as e:
        raise e.cause if isinstance(e.cause, (ConfigError, RunError)) else RunError(f"{what}: {e.cause!r}") from e
    except RayError as e:
        raise RunError(f"{what}: {reason(e)}") from e
