"""What a config leaves open is settled before a run: seats, by what a turn costs, measured once and remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from flexray.models.backbone import Backbone
from flexray.sim.job import Job
from flexray.sim.planning import apart, sizes, trial
from flexray.sim.planning.forecast import local_steps
from flexray.sim.planning.gauge import free_memory
from flexray.sim.planning.layout import arrange, choose, most_seats
from flexray.sim.planning.measure import Ask
from flexray.sim.planning.sample import Rows
from flexray.sim.planning.sizes import Memory
from flexray.sim.planning.trial import Measured
from flexray.sim.wire import BYTES

SEVERAL = 4
"""Seats of the second turn that is measured before seats are chosen, where so many may be worth it."""
FARTHEST = 8
"""Times that many seats are the most to be chosen: further the line through both is not to be trusted."""


Far = Literal["nothing", "choices", "forecast"]
"""How far to measure before a run: not at all; where a choice or a doubt needs it; or for all that can be told."""


@dataclass(frozen=True)
class Trials:
    """How far to measure, and by whom."""

    far: Far = "choices"
    runner: apart.Runner = apart.here


@dataclass(frozen=True)
class Ground:
    """What there is to decide by."""

    job: Job
    skeleton: Backbone
    rows: Rows
    there: Mapping[str, float]
    trials: Trials

    @property
    def nodes(self) -> int:
        return int(self.there.get("nodes", 1))

    def seated(self, seats: int | None) -> Job:
        """The job with so many seats where they are for us to choose."""
        width: int = self.skeleton.blocks[0].width
        flops = 2 * width**2 * self.rows.batch_tokens
        return replace(self.job, layout=arrange(self.job.experiment, self.there, self.job.cohort, seats=seats, flops=flops))

    def memory(self, job: Job, found: Measured) -> Memory:
        return sizes.memory(job, self.skeleton, self.rows, self.nodes, found)

    def measured(self, job: Job, seats: tuple[int, ...]) -> Measured:
        """What this work costs, remembered."""
        cache = job.experiment.storage.cache.expanduser()
        return trial.remembered(Ask(job, seats), self.processes(job), self.trials.runner, cache)

    def processes(self, job: Job) -> int:
        """As many as will be on a node, unless that may be more than it bears."""
        bound = self.memory(job, Measured())
        return bound.actors if bound.more < sizes.SPARE * free_memory()[0] else 1


def settled(ground: Ground) -> tuple[Job, Measured, tuple[str, ...]]:
    """The job with its seats chosen; what was measured for that, and the choice in words."""
    x, one = ground.job.experiment, ground.seated(1)
    most = most_seats(x, ground.there, one.cohort)
    if most == 1 or ground.trials.far == "nothing":
        return ground.seated(None), Measured(), ()
    found = ground.measured(one, (1, min(most, SEVERAL)))
    if len(found.turns) < 2:
        return (
            ground.seated(1 if found.turns else None),
            found,
            (f"seats: not chosen by a measurement, as it failed ({found.why})",),
        )
    fitting = [k for k in range(2, min(most, FARTHEST * SEVERAL) + 1) if _fits(ground, k, found)]
    seats, gain = choose(found.at, local_steps(one), one.layout.actors, max(fitting, default=1))
    why = (
        f"{seats}, by which rounds are {gain:.2f} times as fast as with 1"
        if seats > 1
        else "1, as rounds with more are not a tenth faster"
    )
    return ground.seated(seats), found, (f"seats: {why}, as measured",)


def _fits(ground: Ground, seats: int, found: Measured) -> bool:
    """By all the memory that there is, not by what happens to be free: the same choice another time."""
    m = ground.memory(ground.seated(seats), found)
    return m.node <= sizes.SPARE * free_memory()[1] and m.device <= sizes.SPARE * (found.place.total or m.device / sizes.SPARE)


def weighed(ground: Ground, job: Job, found: Measured) -> tuple[Measured, tuple[str, ...]]:
    """What is known of the job as it is settled, measured where that is asked for or bounds leave a doubt."""
    far, seats = ground.trials.far, (job.layout.seats,)
    if far == "forecast":
        now = trial.measure(Ask(job, seats, whole=True), ground.processes(job), ground.trials.runner)
        return (now, ()) if now.turns else (found, (f"time: not measured ({now.why})",))
    if far == "choices" and not found.turns and _doubtful(ground, job):
        return ground.measured(job, seats), ()
    return found, ()


def _doubtful(ground: Ground, job: Job) -> bool:
    bound = ground.memory(job, Measured())
    kept = sizes.disk(job, BYTES * (job.numbers("private") + job.numbers("shared")))  # as much as most methods remember
    return bound.on_gpu or bound.more > free_memory()[0] / 2 or not sizes.has_room(kept, job.private)
