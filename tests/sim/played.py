"""A pool without a model: a client's update is what was sent, plus its number and one; its loss before a round is that round's number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

import numpy as np
import torch

from flexray.sim.fold import Fold
from flexray.sim.job import Job
from flexray.sim.local.evaluator import Marks
from flexray.sim.pool import Scored, Trained
from flexray.sim.private.store import PrivateStore
from flexray.sim.reports import ClientReport, Examined, Reports, ScoreReport, SliceReport, Sum
from flexray.sim.vectors import Vectors
from flexray.sim.work import Scoring, Task, Training, Work
from flexray.state import ClientState

Order = Callable[[Sequence[Task]], Sequence[Task]]


class PlayedPool:
    """Does tasks in some order; remembers what it was asked. Every client owns something: a newcomer gets its start from scoring, too."""

    def __init__(self, job: Job, order: Order = list, actors: int = 2):
        self.job, self.order, self.actors, self.replaced, self.pace = job, order, actors, 0, inf
        self.works: list[Work] = []
        self.files = PrivateStore(job.private, [c.name for c in job.trainees], job.identity)
        self.settled, self.closed, self.unwell = 0, False, None

    def open(self) -> np.ndarray:
        return np.zeros(self.job.down.numbers, np.float32)

    def survey(self, groups: Any) -> Iterator[Any]:
        raise NotImplementedError

    def play(self, work: Work) -> Iterator[Trained | Scored | Sum]:
        self.works.append(work)
        folds: dict[int, Fold] = {}
        for task in self.order([*work.tasks]):
            if isinstance(task, Scoring):
                yield Scored(task, self._scored(work, task))
            else:
                fold = folds.setdefault(task.cluster, Fold(task.of, Vectors()))
                for number, groups in task.leaves:
                    fold.add(self._sum(work, task, [c for group in groups for c in group]), number, number + 1)
                yield Trained(task, [], self._trained(work, task))
        for cluster, fold in folds.items():
            yield Sum(cluster, fold.leaves, 0, fold.leaves, fold.result)

    def settle(self) -> None:
        if self.unwell is not None:
            raise self.unwell
        self.settled += 1

    def close(self) -> None:
        self.closed = True

    def _scored(self, work: Work, task: Scoring) -> ScoreReport:
        clients = [c for group in task.groups for c in group]

        def marks(client: int, view: str) -> Marks:
            nll = 9.0 if view == "base" else float(work.round)
            one = np.ones(1)
            return Marks(np.array([client]), {"nll": nll * one, "tokens": one, "exact": one, "rows": one})

        found = {c: Examined({view: marks(c, view) for view in task.views}, None) for c in clients}
        return ScoreReport(found, 0.0)

    def _sum(self, work: Work, task: Training, clients: Sequence[int]) -> np.ndarray:
        rows, sent = self.job.trainees, work.sent(task.cluster)
        each = [np.float32(len(rows[c].train) / work.rows[task.cluster]) * (sent + np.float32(c + 1)) for c in clients]
        return np.stack(each).sum(0, dtype=np.float32)

    def _trained(self, work: Work, task: Training) -> SliceReport:
        clients, rows = [c for group in task.groups for c in group], self.job.trainees
        for c in clients:
            self.files.save(c, work.round, ClientState({"expert/x": torch.tensor(float(work.round))}))
        told = [ClientReport(c, float(c), 1, 10, len(rows[c].train), {"lora": 56}, {"lora": 56}) for c in clients]
        return SliceReport(Reports.of(told), 1.0, 0.25, frozenset({"lora"}), {c: work.round for c in clients})
