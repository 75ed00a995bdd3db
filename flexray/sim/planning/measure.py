"""What a turn of clients costs: a few local steps of the real work on sampled rows, timed and weighed in this very process.

Started in processes like the actors' by `trial.py`. Rows are sampled so that their mean length is that over all clients; what
is weighed are the heaviest batches that are to be expected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import NamedTuple

from flexray.data.clients import Client
from flexray.sim.host import ClientHost
from flexray.sim.job import Job
from flexray.sim.planning.gauge import Gauge
from flexray.sim.planning.sample import Rows
from flexray.sim.schedule import Group
from flexray.sim.summary import VIEWS

STEPS = (1, 3)
"""Local steps of the two turns by whose difference a step is timed."""
SECONDS = 0.2
"""Turns are repeated for so long, but up to `MOST` times, and the fastest count: other work on the machine must not decide."""
MOST = 8
FEW_TOKENS = 4
"""To generate where memory is weighed; the rest is reckoned (`reckoned.py`)."""
AVERAGE, FEW, MORE, HEAVY = range(4)
"""Kinds of clients: to train, to score with few rows and with more, and to weigh."""


@dataclass(frozen=True)
class Turn:
    """A turn of average clients in `seats` seats: seconds of a local step, and of a turn beside its steps; seconds by which a
    newcomer's start is longer; bytes at the peak, on the actor's device, above a process without clients."""

    seats: int
    step: float
    fixed: float
    first: float
    bytes: int | None

    def seconds(self, steps: float) -> float:
        """Of a turn with so many local steps."""
        return self.fixed + steps * self.step


@dataclass(frozen=True)
class Scoring:
    """Seconds to score average clients in `seats` seats in all views: of a row of each, and beside rows; `later` is the share
    of that once the frozen base has been scored."""

    seats: int
    row: float
    fixed: float
    later: float


@dataclass(frozen=True)
class Place:
    """Bytes that are known only where it ran: of a client's private state at rest; all of the GPU, what a bare process takes of
    it, and what the whole process takes of its node (these three 0 on the CPU)."""

    private: int
    total: int = 0
    context: int = 0
    process: int = 0


@dataclass(frozen=True)
class Ask:
    """What to measure: a turn in each of these numbers of seats, and with `whole` scoring in the last of them."""

    job: Job
    seats: tuple[int, ...]
    whole: bool = False


class _Timed(NamedTuple):
    seconds: float
    tokens: int
    steps: int


def answer(ask: Ask) -> Iterator[Turn | Scoring | Place]:
    """Each finding as soon as it is there: a larger turn may not fit."""
    with TemporaryDirectory() as private:
        bench = _Bench(replace(ask.job, private=Path(private)), max(ask.seats))
        for seats in ask.seats:
            yield bench.turn(seats)
            if seats == ask.seats[0]:
                yield bench.place()
        if ask.whole:
            yield bench.scoring(ask.seats[-1])


class _Bench:
    """A host whose clients are samples, `most` of each kind."""

    def __init__(self, job: Job, most: int):
        self.rows, self.most, self.pooled = Rows(job), most, job.algorithm.pooled
        self.job = job if self.pooled else replace(job, clients=_samples(job, self.rows, most))
        self.gauge = Gauge(job.layout.device)
        # What one thread works for is the same on a busy machine, and on an idle one as long as it takes.
        self.clock = process_time if job.layout.threads == 1 and not self.gauge.cuda else perf_counter
        self.host = ClientHost(self.job)
        self.gauge.settle()
        self.sent = self.host.open()
        self.round, self.jobs = 0, dict[tuple[int | None, int | None], Job]()

    def turn(self, seats: int) -> Turn:
        """Newcomers come, the heaviest of them are weighed, and average ones are timed."""
        typical, heavy = self._group(AVERAGE, seats), self._group(HEAVY, seats)
        newcomers = self._train(typical, 1)
        self.gauge.start()
        self._train(heavy, 2)
        self._score(self._scored(HEAVY, seats), VIEWS[-1:], brief=True)
        weight, timed, began = self.gauge.peak(), [], perf_counter()
        while not timed or (perf_counter() - began < SECONDS and len(timed) < MOST):
            timed.append([self._train(typical, steps) for steps in STEPS])
        short, long = (min(each) for each in zip(*timed, strict=True))
        per_token = max((long.seconds - short.seconds) / max(long.tokens - short.tokens, 1), 0.5 * long.seconds / long.tokens)
        fixed = max(short.seconds - per_token * short.tokens, 0.0)
        step = per_token * seats * self.rows.step_tokens * long.steps / STEPS[1]
        return Turn(seats, step, fixed, max(newcomers.seconds - short.seconds, 0.0), weight)

    def scoring(self, seats: int) -> Scoring:
        """Times scoring, of few rows and of more."""
        few, more = (self._scored(kind, seats) for kind in (FEW, MORE))
        split = self.job.experiment.evaluation.split
        rows = [len(getattr(self.job.clients[group[0]], split)) for group in (few, more)]
        for group in () if self.pooled else (few, more):
            self._train(group, 1)  # from then on they own something, and are no newcomers
        whole, again, longer = self._score(few, VIEWS), self._score(few, VIEWS[1:]), self._score(more, VIEWS)
        row = max((longer - whole) / (rows[1] - rows[0]), 0.0) if rows[1] > rows[0] else 0.0
        return Scoring(seats, row, max(whole - row * rows[0], 0.0), min(again / whole, 1.0))

    def place(self) -> Place:
        state = self.host.store.load(self._group(AVERAGE, 1)[0], self.round + 1)
        tensors = [*state.weights.values(), *state.memory.values()] if state else []
        return Place(sum(t.nbytes for t in tensors), *self.gauge.device())

    def _group(self, kind: int, seats: int) -> Group:
        return (len(self.job.clients),) if self.pooled else tuple(range(kind * self.most, kind * self.most + seats))

    def _scored(self, kind: int, seats: int) -> Group:
        """A method that trains one for all scores the clients themselves."""
        return tuple(range(seats)) if self.pooled else self._group(kind, seats)

    def _train(self, group: Group, steps: int) -> _Timed:
        self._set(steps, FEW_TOKENS)
        rows, began = sum(len(self.job.trainees[c].train) for c in group), self.clock()
        _, report = self.host.train(self.round, [group], self.sent, rows)
        self.round += 1
        mine = report.clients
        return _Timed(self.clock() - began, sum(c.tokens for c in mine), max(c.steps for c in mine))

    def _score(self, group: Group, views: Sequence[str], brief: bool = False) -> float:
        """Seconds; `brief`: with few local steps (where clients are scored after these) and few generated tokens."""
        self._set(*((2, FEW_TOKENS) if brief else ()))
        began = self.clock()
        self.host.evaluate(self.round, group, self.sent, views)
        return self.clock() - began

    def _set(self, steps: int | None = None, tokens: int | None = None) -> None:
        """Sets local steps and tokens to generate at the most, or lets them be as the experiment says."""
        if (steps, tokens) not in self.jobs:  # checking an experiment takes as long as a step
            spec, limit = self.job.spec, self.job.experiment.evaluation.max_new_tokens
            train = spec["train"] | ({"steps": steps, "epochs": None} if steps else {})
            evaluation = spec["evaluation"] | ({"max_new_tokens": min(limit, tokens)} if tokens else {})
            self.jobs[steps, tokens] = replace(self.job, spec={**spec, "train": train, "evaluation": evaluation})
        job = self.jobs[steps, tokens]
        self.host.job, self.host.experiment, self.host.scorer.x = job, job.experiment, job.experiment.evaluation


def _samples(job: Job, rows: Rows, most: int) -> tuple[Client, ...]:
    x, b = job.experiment.evaluation, job.experiment.train.batch * job.experiment.train.accumulate
    usual = {split: rows.sample(split, rows.typical(split)) for split in ("train", "valid", "test")}
    made = {
        AVERAGE: {"train": rows.sample("train", max(STEPS[1] * b, rows.typical("train")))},
        FEW: {x.split: rows.sample(x.split, min(x.batch, rows.typical(x.split)))},
        MORE: {x.split: rows.sample(x.split, min(3 * x.batch, rows.typical(x.split)))},
        HEAVY: {"train": rows.heavy(b), x.split: rows.longest(x.split, x.batch)},
    }
    return tuple(
        Client(f"{kind}-{i}", **(usual | own), dropped=0, labels={}) for kind, own in made.items() for i in range(most)
    )
