"""How long a run will take, by what a turn and scoring were measured to cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from flexray.sim.job import Job
from flexray.sim.planning.layout import round_seconds
from flexray.sim.planning.trial import Measured

RAY_SECONDS = 3.0
"""Until a local Ray is up."""
ACTOR_SECONDS = 4.5
"""Until actors have imported what they need, where each has a core."""
ROUND_SECONDS = 0.02
"""Of a round beside training, and of an evaluation beside scoring: what is sent, folded and written."""


@dataclass(frozen=True)
class Forecast:
    """Expected seconds. start: until the actors are up; newcomers: the starts of all who train, together; round, evaluation: of each,
    on average over so many."""

    start: float
    newcomers: float
    rounds: int
    round: float
    evaluations: int
    evaluation: float

    @property
    def whole(self) -> float:
        return self.start + self.newcomers + self.rounds * self.round + self.evaluations * self.evaluation


def forecast(job: Job, found: Measured) -> Forecast | None:
    """Of a run from its first round; None where too little could be measured."""
    if not found.turns or found.scoring is None:
        return None
    layout, x = job.layout, job.experiment
    turn = found.at(layout.seats)
    groups = ceil(min(len(job.trainees), x.rounds * len(job.planned)) / layout.seats)
    exams = list(_exams(job, found, turn.first))
    return Forecast(
        start=0.0 if x.resources.backend == "inline" else RAY_SECONDS + ACTOR_SECONDS,
        newcomers=ceil(groups / layout.actors) * turn.first,
        rounds=x.rounds,
        round=ROUND_SECONDS + round_seconds(found.at, local_steps(job), layout.actors, layout.seats),
        evaluations=len(exams),
        evaluation=ROUND_SECONDS + sum(exams) / len(exams),
    )


def local_steps(job: Job) -> list[int]:
    """Of each who trains in a round, as it is in the first."""
    x, many = job.experiment, job.cohort if job.algorithm.pooled else 1
    batch = x.train.batch * x.train.accumulate * many
    return [x.train.local_steps(len(job.trainees[number].train), batch) for number in job.planned]


def _exams(job: Job, found: Measured, start: float) -> Iterator[float]:
    """Seconds of each evaluation: the frozen base is scored once for each client, all else every time; who never trained starts anew."""
    x, population, seen = job.experiment, len(job.clients), 0.0
    untouched = 0.0 if job.algorithm.pooled else 1 - len(job.planned) / population
    rounds = [r for r in range(x.rounds) if x.evaluation.every and r % x.evaluation.every == 0]
    for round, chosen in [*((r, x.evaluation.clients) for r in rounds), (x.rounds, x.evaluation.last)]:
        size = min(int({"all": population, "cohort": job.cohort}.get(str(chosen), chosen)), population)
        new = size * (1 - seen / population)
        seen += new
        yield _scoring_seconds(job, found, new, size - new) + start * _turns(job, size * untouched**round)


def _scoring_seconds(job: Job, found: Measured, new: float, known: float) -> float:
    assert found.scoring is not None
    split = job.experiment.evaluation.split
    rows = sum(len(getattr(c, split)) for c in job.clients) / len(job.clients)
    group = found.scoring.fixed + found.scoring.row * rows
    return group * (_turns(job, new) + found.scoring.later * _turns(job, known))


def _turns(job: Job, clients: float) -> float:
    """Of an actor, one group after another."""
    turns = ceil(ceil(clients - 1e-9) / job.layout.seats) / job.layout.actors
    return ceil(turns) if 0 < turns < 4 else turns  # few groups: some actors wait for the last one
