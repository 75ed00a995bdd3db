"""The client actor as a plain class: one process that trains and scores clients, one group of seats at a time.

Wrapped by Ray in `actors.py`, called directly by the inline pool.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from flexray.data.corpus import Corpus
from flexray.errors import RunError, expected
from flexray.models import backbone as backbones
from flexray.models.seats import Seats
from flexray.sim.evaluator import Counts, score
from flexray.sim.job import Job
from flexray.sim.schedule import Group
from flexray.sim.store import NEWCOMER, PrivateStore
from flexray.sim.trainer import SeatTrainer
from flexray.sim.wire import add_weighted
from flexray.state import ClientState, State, Update, seat, widen


@dataclass(frozen=True)
class ClientReport:
    """What one client's round cost and gave. loss is the mean over its local steps; bytes are of its own update."""

    client: int
    loss: float
    steps: int
    tokens: int
    rows: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class SliceReport:
    """A slice's clients, and the seconds that the process spent on it: training, and reading and writing private state."""

    clients: tuple[ClientReport, ...]
    seconds: float
    seconds_private: float


Scores = dict[int, dict[str, list[Counts]]]
"""Client to view to each metric's counts."""


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
        self.store = PrivateStore(job.private, [c.name for c in job.clients])
        self.algorithm = self.experiment.algorithm
        self.seats: Seats | None = None

    def ready(self) -> int:
        """Answers once the process is up: the process id."""
        return os.getpid()

    def train(self, round: int, groups: Sequence[Group], sent: np.ndarray, total_rows: int) -> tuple[np.ndarray, SliceReport]:
        """The sum of these clients' updates, each weighted by its share of `total_rows`, and the report."""
        started, before, total, reports = perf_counter(), self.store.seconds, np.zeros(self.job.wire.numbers, np.float32), []
        for group in groups:
            with _blame(self.job, round, group):
                trainer = self._trainer(group, round)
                vectors = self._turn(trainer, group, round, sent)
                total = add_weighted(total, vectors, (trainer.rows / total_rows).tolist())
                reports += self._reports(group, trainer, vectors, sent)
        _give_back()
        return total, SliceReport(tuple(reports), perf_counter() - started, self.store.seconds - before)

    def evaluate(self, round: int, group: Group, sent: np.ndarray, views: Sequence[str], split: str = "test") -> Scores:
        """Counts of every metric for these clients as they are before `round`, in the views `base`, `shared`, `personal`."""
        with _blame(self.job, round, group):
            trainer, down = self._trainer(group, round), self._widened(sent, len(group))
            weights = {"base": State(), "shared": down.weights}
            if "personal" in views:
                weights["personal"] = self.algorithm.personal(trainer, down, self._owned(group, round, trainer, down))
            clients = [self.job.clients[number] for number in group]
            chosen = {view: weights[view] for view in views}
            batch = self.experiment.evaluation.batch
            counts = score(self.backbone, trainer.seats, self.corpus, clients, chosen, self.job.metrics, batch, split)
            return dict(zip(group, counts, strict=True))

    def _widened(self, sent: np.ndarray, seats: int) -> Update:
        """What the server sent, in every seat, on the device."""
        update = self.job.wire.unpack(sent)
        weights, aux = ({n: t.to(self.backbone.device) for n, t in s.items()} for s in (update.weights, update.aux))
        return Update(widen(weights, seats), widen(aux, seats))

    def _turn(self, trainer: SeatTrainer, group: Group, round: int, sent: np.ndarray) -> np.ndarray:
        """One group's training, private state from and to the store: what goes up, [K, P]."""
        down = self._widened(sent, len(group))
        up, mine = self.algorithm.client(trainer, down, self._owned(group, round, trainer, down))
        _check_finite(trainer.effort.loss)
        vectors = self.job.wire.pack(up, len(group))
        for k, number in enumerate(group):
            self.store.save(number, round, _of_seat(mine, k))
        return vectors

    def _trainer(self, group: Group, round: int) -> SeatTrainer:
        if self.seats is None or self.seats.seats != len(group):
            if self.seats is not None:
                self.seats.detach()
            self.seats = Seats(self.backbone, self.algorithm.parts, len(group))
        clients = [self.job.clients[number] for number in group]
        return SeatTrainer(self.experiment, self.backbone, self.seats, self.corpus, clients, group, round)

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

    def _reports(self, group: Group, trainer: SeatTrainer, vectors: np.ndarray, sent: np.ndarray) -> list[ClientReport]:
        effort = trainer.effort
        return [
            ClientReport(
                client=number,
                loss=float(effort.loss[k] / max(effort.steps[k], 1)),
                steps=int(effort.steps[k]),
                tokens=int(effort.tokens[k]),
                rows=int(trainer.rows[k]),
                bytes_up=vectors[k].nbytes,
                bytes_down=sent.nbytes,
            )
            for k, number in enumerate(group)
        ]


def _of_seat(state: ClientState, k: int) -> ClientState:
    return ClientState(seat(state.weights, k), seat(state.memory, k))


def _stacked(states: Sequence[ClientState], device: torch.device) -> ClientState:
    def stack(each: Sequence[Mapping[str, torch.Tensor]]) -> State:
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
        names = ", ".join(job.clients[number].name for number in group)
        raise RunError(f"round {round}, client {names}: {type(e).__name__}: {e}") from e
