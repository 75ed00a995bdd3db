"""The client actor as a plain class: one process that trains and scores clients, one group of seats at a time.

Wrapped by Ray in `actors.py`, called directly by the inline pool.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch

from flexray.data.corpus import Corpus
from flexray.errors import RunError, expected
from flexray.models import backbone as backbones
from flexray.models.inside import grafted_where, look, summarise
from flexray.models.seats import Seats
from flexray.sim.evaluator import Scorer
from flexray.sim.job import Job
from flexray.sim.newcomers import start_of
from flexray.sim.reports import ClientReport, Examined, Gathered, Scores, Sight, SliceReport
from flexray.sim.schedule import Group
from flexray.sim.store import NEWCOMER, PrivateStore
from flexray.sim.trainer import SeatTrainer
from flexray.sim.wire import LeakError, add_weighted
from flexray.state import ClientState, State, Update, seat, widen


class ClientHost:
    """Holds the backbone once, and the seats; private state rests in the node store between turns."""

    def __init__(self, job: Job):
        torch.set_num_threads(job.layout.threads)
        for path in (job.backbone, job.corpus):
            if not path.exists():
                raise expected("storage.cache", "a folder that every node sees", str(path), "name one that all nodes share")
        self.job, self.experiment = job, job.experiment
        self.backbone = backbones.load(job.backbone, job.layout.device)
        self.corpus = Corpus(job.corpus)
        self.scorer = Scorer(job, self.backbone, self.corpus)
        self.store = PrivateStore(job.private, [c.name for c in job.trainees])
        self.algorithm = job.algorithm
        self.seats: Seats | None = None

    def ready(self) -> int:
        """Answers once the process is up: the process id."""
        return os.getpid()

    def open(self) -> np.ndarray:
        """What travels first, [P]: starting values of the shared parts, zeros for auxiliary state."""
        down, start = self.job.down.payload, start_of(self.algorithm, self.backbone, self.experiment.seed)
        first = Update({n: start[n] for n in down.weights}, {n: torch.zeros(s) for n, s in down.aux.items()})
        return self.job.down.pack_one(first)

    def survey(self, group: Group) -> dict[int, State]:
        """What each of these clients tells once, before round 0."""
        with _blame(self.job, 0, group):
            told = self.algorithm.survey(self._trainer(group, 0))
            return {number: {n: t.cpu() for n, t in seat(told, k).items()} for k, number in enumerate(group)}

    def train(self, round: int, groups: Sequence[Group], sent: np.ndarray, total_rows: int) -> tuple[Gathered, SliceReport]:
        """The sum of these clients' updates, each weighted by its share of `total_rows` (or each of them), and the report."""
        started, before, trained = perf_counter(), self.store.seconds, set[str]()
        total, each, reports = np.zeros(self.job.up.numbers, np.float32), [], []
        for group in groups:
            with _blame(self.job, round, group):
                trainer = self._trainer(group, round, total_rows)
                vectors = self._turn(trainer, group, round, sent)
                crossing = [self._crossing(vector, number) for vector, number in zip(vectors, group, strict=True)]
                if self.algorithm.each:
                    each += crossing
                else:
                    total = add_weighted(total, vectors, trainer.share.tolist())
                reports += self._reports(group, trainer)
                trained |= trainer.effort.parts
        _give_back()
        spent = perf_counter() - started, self.store.seconds - before
        return each if self.algorithm.each else total, SliceReport(tuple(reports), *spent, frozenset(trained))

    def evaluate(self, round: int, group: Group, sent: np.ndarray, views: Sequence[str]) -> Scores:
        """What these clients score as they are before `round` (or after its local steps) in the views `base`, `shared`, `personal`."""
        with _blame(self.job, round, group):
            trainer, down = self._trainer(group, round), self._widened(sent, group)
            weights, mine = {"base": State()}, self._owned(group, round, trainer, down)
            if "shared" in views:
                weights["shared"] = trainer.frozen | self.algorithm.common(trainer, down, mine)
            weights["personal"] = trainer.frozen | self._personal(trainer, down, mine)
            marks = self.scorer.score(trainer.seats, group, {view: weights[view] for view in views})
            sights = self._look(trainer, weights["personal"]) if self.experiment.evaluation.inside_rows else [None] * len(group)
            return {c: Examined(own, sight) for c, own, sight in zip(group, marks, sights, strict=True)}

    def _look(self, trainer: SeatTrainer, weights: State) -> list[Sight]:
        """What happens inside the blocks when the clients' own models read some of their valid rows, the same ones always."""
        batch = trainer.fixed_rows(self.experiment.evaluation.inside_rows)
        sums = look(trainer.seats, weights, (batch.ids, batch.lengths), batch.starts)
        blocks = summarise(self.backbone, sums)
        return [Sight(tuple(own), grafted_where(seat(weights, k))) for k, own in enumerate(blocks)]

    def _personal(self, trainer: SeatTrainer, down: Update, mine: ClientState) -> State:
        """What the clients serve with: before local steps, or after them, whose result is not kept."""
        served = self.algorithm.personal(trainer, down, mine)
        if self.experiment.evaluation.when == "before_steps":
            return served
        own = self.algorithm.client(trainer, down, mine)[1].weights
        now = trainer.trained | own
        return {name: now.get(name, t) for name, t in served.items()}

    def _widened(self, sent: np.ndarray, group: Group) -> Update:
        """What crosses to each of these clients of what the server sent, on the device."""
        wire = self.job.down
        masks = [wire.crossing(self.algorithm.cut(wire.payload, number)) for number in group]
        if all(mask is None for mask in masks):
            update = wire.unpack(sent)
            weights, aux = widen(update.weights, len(group)), widen(update.aux, len(group))
        else:
            update = wire.unpack(np.stack([sent if mask is None else np.where(mask, sent, 0) for mask in masks]))
            weights, aux = update.weights, update.aux
        return Update(*({n: t.to(self.backbone.device) for n, t in s.items()} for s in (weights, aux)))

    def _turn(self, trainer: SeatTrainer, group: Group, round: int, sent: np.ndarray) -> np.ndarray:
        """One group's training, private state from and to the store: what goes up, [K, P]."""
        down = self._widened(sent, group)
        up, mine = self.algorithm.client(trainer, down, self._owned(group, round, trainer, down))
        _check_finite(trainer.effort.loss)
        vectors = self.job.up.pack(up, len(group))
        for k, number in enumerate(group):
            self.store.save(number, round, _of_seat(mine, k))
        return vectors

    def _crossing(self, vector: np.ndarray, number: int) -> np.ndarray:
        """What of a client's update crosses; the rest must be zero."""
        mask = self.job.up.crossing(self.algorithm.cut(self.job.up.payload, number))
        if mask is not None and vector[~mask].any():
            raise LeakError("a client of lower rank may send its leading corner only; the rest is not zero")
        return vector if mask is None else vector[mask]

    def _trainer(self, group: Group, round: int, total_rows: int | None = None) -> SeatTrainer:
        if self.seats is None or self.seats.seats != len(group):
            if self.seats is not None:
                self.seats.detach()
            self.seats = Seats(self.backbone, self.algorithm.parts, len(group))
        return SeatTrainer(self.job, self.backbone, self.seats, self.corpus, group, round, total_rows)

    def _owned(self, group: Group, round: int, trainer: SeatTrainer, down: Update) -> ClientState:
        """The group's private state as it was before this round; newcomers get theirs, which is kept at once."""
        found = {number: state for number in group if (state := self.store.load(number, round)) is not None}
        if len(found) < len(group):
            fresh = self.algorithm.start(trainer, down)
            for k, number in enumerate(group):
                if number not in found:
                    found[number] = _of_seat(fresh, k)
                    self.store.save(number, NEWCOMER, found[number])
        return _stacked([found[number] for number in group], self.backbone.device)

    def _reports(self, group: Group, trainer: SeatTrainer) -> list[ClientReport]:
        effort, up, down = trainer.effort, self.job.up, self.job.down
        return [
            ClientReport(
                client=number,
                loss=float(effort.loss[k] / max(effort.steps[k], 1)),
                steps=int(effort.steps[k]),
                tokens=int(effort.tokens[k]),
                rows=int(trainer.rows[k]),
                up=up.bytes_by_part(self.algorithm.cut(up.payload, number)),
                down=down.bytes_by_part(self.algorithm.cut(down.payload, number)),
            )
            for k, number in enumerate(group)
        ]


def _of_seat(state: ClientState, k: int) -> ClientState:
    return ClientState(seat(state.weights, k), seat(state.memory, k))


def _stacked(states: Sequence[ClientState], device: torch.device) -> ClientState:
    def stack(each: Sequence[Mapping[str, torch.Tensor]]) -> State:
        assert all(one.keys() == each[0].keys() for one in each), "a client's state must have the same names in every round"
        return {name: torch.stack([one[name] for one in each]).to(device) for name in each[0]}

    return ClientState(stack([s.weights for s in states]), stack([s.memory for s in states]))


def _give_back() -> None:
    """Hands freed memory back to the system: glibc would keep as much as a training step needed at its most (100 MB and more)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _check_finite(losses: np.ndarray) -> None:
    if not np.isfinite(losses).all():
        raise FloatingPointError("the training loss is not a finite number; lower train.lr, or set train.clip")


@contextmanager
def _blame(job: Job, round: int, group: Group) -> Iterator[None]:
    """Failures inside leave as a RunError that names round and clients."""
    try:
        yield
    except RunError:
        raise
    except Exception as e:
        names = ", ".join(job.trainees[number].name for number in group)
        raise RunError(f"round {round}, client {names}: {type(e).__name__}: {e}") from e
