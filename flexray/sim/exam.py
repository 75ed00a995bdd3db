"""An evaluation: which clients are scored, and what is made of what they scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from flexray.errors import RunError
from flexray.sim import left_out, schedule, work
from flexray.sim.events import Evaluated
from flexray.sim.failure import Trouble
from flexray.sim.job import Job
from flexray.sim.pool import Pool, Scored
from flexray.sim.reports import Scores
from flexray.sim.run_folder import RunFolder, Table
from flexray.sim.summary import VIEWS, numbers_of
from flexray.sim.work import Scoring, Server


@dataclass
class Exam:
    """An evaluation under way: of the state before `round`, of so many clients, in these tasks; what came so far."""

    folder: RunFolder
    round: int
    clients: int
    tasks: list[Scoring]
    actors: int
    last: bool
    scores: Scores = field(default_factory=dict)
    left_out: list[Trouble] = field(default_factory=list)
    busy: float = 0.0
    started: float = field(default_factory=perf_counter)

    def add(self, job: Job, scored: Scored | Trouble) -> Iterator[Evaluated]:
        """Saved as soon as it is whole; who is left out is not missed."""
        if isinstance(scored, Trouble):
            self.left_out += [scored] if scored.left_out else []
        else:
            self.scores |= scored.report.scores
            self.busy += scored.report.seconds
        if not self.scores and len(self.left_out) == self.clients:
            raise RunError(f"round {self.round}: nobody could be scored, the last one: {self.left_out[-1].why}")
        whole = isinstance(scored, Scored) or scored.left_out
        if whole and len(self.scores) + len(self.left_out) == self.clients:
            # What the mean actor spent on it; at the end, when nothing else goes on, all the time that passed.
            yield self._save(job, perf_counter() - self.started if self.last else self.busy / self.actors)

    def _save(self, job: Job, seconds: float) -> Evaluated:
        x, scores, folder, round = job.experiment.evaluation, self.scores, self.folder, self.round
        folder.save_inside(round, {job.clients[c].name: found.sight for c, found in sorted(scores.items()) if found.sight})
        folder.save_marks({c: found.marks for c, found in scores.items()}, job.clients, round, self.last)
        left_out.save(folder, job, round, "scoring", self.left_out)
        means = folder.save_scores(_rows(job, round, scores), round, seconds, {"split": x.split, "when": x.when})
        return Evaluated(round, len(scores), means, seconds, x.split, numbers_of(job, means["personal"]))


def examination(job: Job, pool: Pool, folder: RunFolder, server: Server, round: int, last: bool = False) -> Exam:
    """Scores clients before `round`; the frozen base only once per client, as it never changes."""
    clients, known = _examined(job, round, last), folder.scored("base")
    tasks = []
    for views, chosen in ((VIEWS, [c for c in clients if c not in known]), (VIEWS[1:], [c for c in clients if c in known])):
        tasks += work.scoring(job, server, chosen, views, pool.actors)
    return Exam(folder, round, len(clients), tasks, pool.actors, last)


def _examined(job: Job, round: int, last: bool) -> list[int]:
    x, everybody = job.experiment, list(range(len(job.clients)))
    chosen = x.evaluation.last if last else x.evaluation.clients
    if chosen == "all":
        return everybody
    if chosen == "cohort":
        return list(schedule.cohort(x.seed, round, len(job.clients), x.cohort))
    rng = np.random.default_rng(np.random.SeedSequence([x.seed, round, 0xE7A1]))
    return sorted(rng.permutation(len(everybody))[:chosen].tolist())


def _rows(job: Job, round: int, scores: Scores) -> Table:
    """One row per client, view and number."""
    split = job.experiment.evaluation.split
    return [
        {"round": round, "client": client, "name": job.clients[client].name, "view": view, "metric": name, "value": value, "split": split}
        for client, found in sorted(scores.items())
        for view, sums in ((view, marks.sums()) for view, marks in found.marks.items())
        for metric in job.metrics
        for name, value in metric.value(sums).items()
    ]  # fmt: skip
