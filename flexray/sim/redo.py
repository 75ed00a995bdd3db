"""Tasks that failed, wholly or in part, as they are to be done once more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flexray.errors import RunError
from flexray.sim.failure import Doing, Failed, Kind, Tries, Trouble, patience
from flexray.sim.job import Job
from flexray.sim.reports import ScoreReport, SliceReport, Sum
from flexray.sim.schedule import Group
from flexray.sim.work import Scoring, Task, Work


@dataclass(frozen=True)
class Heard:
    """What became of a task: what of it is done, if anything, what went wrong, what is to be done once more, and sums of leaves of which
    nobody remains."""

    well: Task | None
    troubles: tuple[Trouble, ...] = ()
    again: tuple[Task, ...] = ()
    empty: tuple[Sum, ...] = ()


class Redo:
    """One round's. slowest: by what is done, seconds per token of the slowest so far; it is kept up to date."""

    def __init__(self, job: Job, work: Work | None, slowest: dict[Doing, float]):
        many = len(work.training_clients) if work else 0
        self.job, self.slowest, self.faults = job, slowest, job.experiment.faults
        self.tries = Tries(self.faults, job.names, work.round if work else 0, many)
        self._told: set[tuple[int, int]] = set()

    @property
    def defers(self) -> bool:
        """Whether who failed is tried again when all others have been tried: if all fail, that is seen before any is left out."""
        return self.faults.on_failure == "skip"

    def heard(self, task: Task, report: SliceReport | ScoreReport) -> Heard:
        """A task came back. Raises RunError if the run is to end."""
        doing, tokens = doing_of(task), self._tokens(task)
        if tokens.any() and not report.failed:
            self.slowest[doing] = max(self.slowest.get(doing, 0.0), report.seconds / float(tokens.sum()))
        well, ill = _parted(task, report.failed)
        self.tries.did([c for group in well.groups for c in group] if well else (), doing)
        if ill is None:
            return Heard(well)
        troubles = tuple(self.tries.failed(f, doing) for f in report.failed)
        again, empty = self.again(ill)
        return Heard(well, troubles, again, empty)

    def again(self, task: Task) -> tuple[tuple[Task, ...], tuple[Sum, ...]]:
        """A task that is to be done once more, by those who are still in it; and sums for leaves of which nobody is."""
        doing = doing_of(task)
        if isinstance(task, Scoring):
            groups = self.tries.seated(task.groups, doing)
            return ((replace(task, groups=groups),) if groups else ()), ()
        leaves = tuple((number, self.tries.seated(groups, doing)) for number, groups in task.leaves)
        stay = tuple(leaf for leaf in leaves if leaf[1])
        nobodys = [number for number, groups in leaves if not groups]
        zero = [] if self.job.algorithm.each else [np.zeros(self.job.up.numbers, np.float32) for _ in nobodys]
        empty = tuple(Sum(task.cluster, task.of, n, n + 1, vector) for n, vector in zip(nobodys, zero, strict=False))
        return ((replace(task, leaves=stay),) if stay else ()), empty

    def died(self, clients: Group, why: str, kind: Kind, at: Iterable[Task]) -> Trouble:
        """An actor died at these clients, which are in one of the tasks `at`; else nobody is to blame."""
        found = [task for task in at if clients and {*clients} <= {c for group in task.groups for c in group}]
        failed = Failed(clients if found else (), why, kind)
        return self.tries.died(failed, doing_of(found[0]) if found else "training")

    def is_new(self, task: Task) -> bool:
        """Whether nothing was told of this task yet; from now on it was."""
        if isinstance(task, Scoring):
            return True
        leaves = {(task.cluster, number) for number, _ in task.leaves}
        new = not leaves <= self._told
        self._told |= leaves
        return new

    def patience(self, task: Task) -> float | None:
        """Seconds for each of its clients."""
        tokens, doing = self._tokens(task), doing_of(task)
        return patience(self.faults, self.slowest.get(doing, 0.0), float(max(tokens, default=0)))

    def _tokens(self, task: Task) -> np.ndarray:
        clients = [c for group in task.groups for c in group]
        if isinstance(task, Scoring):
            return self.job.lengths[self.job.experiment.evaluation.split][clients]
        return self.job.work[clients]


class Surveying:
    """What follows when actors die before the first round: the same is asked again."""

    defers = False

    def __init__(self, job: Job):
        self.job, self.faults = job, job.experiment.faults
        self.tries = Tries(self.faults, job.names, 0)

    def heard(self, task: Any, report: Any) -> Heard:
        return Heard(task)

    def again(self, task: Any) -> tuple[tuple[Any, ...], tuple[Sum, ...]]:
        return (task,), ()

    def died(self, clients: Group, why: str, kind: Kind, at: Iterable[Any]) -> Trouble:
        """There is nobody to leave out: who tells nothing has no place among the clusters."""
        failed = Failed(clients, why, kind)
        trouble = self.tries.died(failed, "training")
        if trouble.left_out:
            raise RunError(f"before the first round, client {self.tries.named(clients)}: {why}")
        return trouble

    def patience(self, group: Group) -> float | None:
        return patience(self.faults, 0.0, 0.0)


def doing_of(task: Task) -> Doing:
    return "scoring" if isinstance(task, Scoring) else "training"


def _parted(task: Task, failed: Sequence[Failed]) -> tuple[Task | None, Task | None]:
    """What of a task went well, and what did not."""
    if not failed:
        return task, None
    if isinstance(task, Scoring):
        clients = {c for f in failed for c in f.clients}
        ill = tuple(group for group in task.groups if clients & {*group})
        well = tuple(group for group in task.groups if not clients & {*group})
        return (replace(task, groups=well) if well else None), replace(task, groups=ill)
    numbers = {f.leaf for f in failed}
    parts = [tuple(leaf for leaf in task.leaves if (leaf[0] in numbers) == ill) for ill in (False, True)]
    return (replace(task, leaves=parts[0]) if parts[0] else None), replace(task, leaves=parts[1])
