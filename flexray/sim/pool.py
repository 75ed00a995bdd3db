"""What plays the tasks of a round: the protocol, and the pool that needs no Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import numpy as np

from flexray.sim.failure import Trouble
from flexray.sim.host import ClientHost
from flexray.sim.job import Job
from flexray.sim.redo import Redo
from flexray.sim.reports import ScoreReport, SliceReport, Sum
from flexray.sim.schedule import Group
from flexray.sim.work import Scoring, Task, Training, Work
from flexray.state import State


@dataclass(frozen=True)
class Trained:
    """A task that is done. vectors: what crossed of each client, where the method needs that; sums come at the end, from each process."""

    task: Training
    vectors: list[np.ndarray]
    report: SliceReport


@dataclass(frozen=True)
class Scored:
    """A task that is done."""

    task: Scoring
    report: ScoreReport


class Pool(Protocol):
    """Processes that hold clients. Results come as they finish, in any order."""

    pace: float
    """Seconds that a client took in the last round."""

    @property
    def actors(self) -> int:
        """How many processes there are, or should be."""
        ...

    @property
    def replaced(self) -> int:
        """How many have died so far."""
        ...

    def open(self) -> np.ndarray:
        """What travels first."""
        ...

    def survey(self, groups: Sequence[Group]) -> Iterator[dict[int, State]]:
        """What the clients of each group tell once."""
        ...

    def play(self, work: Work) -> Iterator[Trained | Scored | Sum | Trouble]:
        """Does all tasks, those of clients that fail as `Redo` says. Sums may be written into."""
        ...

    def settle(self) -> None:
        """Returns when all that clients own is at rest; raises if it could not be written."""
        ...

    def close(self) -> None: ...


class InlinePool:
    """One host in this very process: for debugging, and where there is no Ray."""

    actors, replaced, pace = 1, 0, inf

    def __init__(self, job: Job):
        self.job, self.host = job, ClientHost(job, behind=True, tells=True)

    def open(self) -> np.ndarray:
        return self.host.open()

    def survey(self, groups: Sequence[Group]) -> Iterator[dict[int, State]]:
        yield from map(self.host.survey, groups)

    def play(self, work: Work) -> Iterator[Trained | Scored | Sum | Trouble]:
        redo = Redo(self.job, work, {})
        yield from told(self._done(work, redo), redo)
        yield from self.host.give()

    def _done(self, work: Work, redo: Redo) -> Iterator[tuple[Task, Any] | Trouble | list[Sum]]:
        sent, queue = [work.sent(cluster) for cluster in range(work.clusters)], deque(work.tasks)
        while queue:
            task = queue.popleft()
            result = perform(self.host, task, work, sent[task.cluster])
            heard = redo.heard(task, result[1] if isinstance(result, tuple) else result)
            if heard.well is not None:
                yield heard.well, result
            yield from heard.troubles
            yield list(heard.empty)
            (queue.extend if redo.defers else queue.extendleft)(heard.again)

    def settle(self) -> None:
        self.host.settle()

    def close(self) -> None:
        self.host.close()


def perform(host: ClientHost, task: Task, w: Work, sent: np.ndarray) -> Any:
    """Does a task in this process; gives what the host gave."""
    known, groups = w.owning(task.groups), task.groups
    if isinstance(task, Scoring):
        return host.score(w.round, groups, sent, task.views, known=known)
    return host.train(w.round, groups, sent, w.rows[task.cluster], **asked(task), known=known)


def told(found: Iterable[tuple[Task, Any] | Trouble | list[Sum]], redo: Redo) -> Iterator[Trained | Scored | Sum | Trouble]:
    """What a round is told of tasks that were done, each once, of troubles and of sums."""
    for what in found:
        if isinstance(what, list):
            yield from what
        elif isinstance(what, Trouble):
            yield what
        elif isinstance(task := what[0], Scoring):
            yield Scored(task, what[1])
        elif redo.is_new(task):
            yield Trained(task, *what[1])
        del what


def asked(task: Training) -> dict[str, Any]:
    """Of `ClientHost.train`: where the groups belong, and since when they train."""
    leaves = tuple((number, len(groups)) for number, groups in task.leaves)
    return {"cluster": task.cluster, "of": task.of, "leaves": leaves, "lag": task.lag}
