"""The client actor as a plain class: one process that trains and scores clients, one group of seats at a time.

Wrapped by Ray in `actors.py`, called directly by the inline pool.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from flexray.data.corpus import Corpus
from flexray.errors import RunError, expected
from flexray.models import backbone as backbones
from flexray.models.seats import Seats
from flexray.sim.folds import Folds
from flexray.sim.job import Job
from flexray.sim.local.evaluator import Scorer
from flexray.sim.local.examine import examine
from flexray.sim.local.newcomers import start_of
from flexray.sim.local.trainer import SeatTrainer
from flexray.sim.planning.gauge import give_back
from flexray.sim.privacy.guard import Guard, remembering
from flexray.sim.private import keeper, owned
from flexray.sim.private.keeper import Keeper
from flexray.sim.private.owned import Owned
from flexray.sim.private.store import PrivateStore
from flexray.sim.reports import ScoreReport, Scores, SliceReport, Sum
from flexray.sim.schedule import Group
from flexray.sim.sent import Sent
from flexray.sim.tally import Done, Tally
from flexray.sim.turns import Turns, check_finite
from flexray.sim.vectors import Vectors
from flexray.sim.wire import LeakError
from flexray.state import ClientState, State, Update, seat

Known = Mapping[int, int]
"""Client to the round after which its private state was last written; who is not there owns nothing yet."""
States = Iterable[tuple[int, int]]
"""Clients, and the rounds after which their states were written."""


LARGE = 1 << 20
"""Bytes of an update. Sums of larger ones are added up among the actors, smaller ones go to the driver at once."""


class ClientHost:
    """Holds the backbone once, and the seats; private state rests in the node store between turns.

    behind: it is written while the next clients train; see `Keeper`, and call `settle`. tells: who failed in a task is reported, and
    not raised; mark: see `Turns`.
    """

    def __init__(self, job: Job, behind: bool = False, tells: bool = False, mark: Path | None = None):
        torch.set_num_threads(job.layout.threads)
        for path in (job.backbone, job.corpus):
            if not path.exists():
                raise expected("storage.cache", "a folder that every node sees", str(path), "name one that all nodes share")
        self.job, self.experiment = job, job.experiment
        self.backbone = backbones.load(job.backbone, job.layout.device)
        self.corpus = Corpus(job.corpus)
        self.scorer = Scorer(job, self.backbone, self.corpus)
        names = [c.name for c in job.trainees]
        files, self.turns = PrivateStore.of(job), Turns(names, tells, mark)
        self.store = Keeper(files, keeper.room(job.layout.actors), job.turnover, behind)
        self.algorithm = job.algorithm
        self.sent = Sent(job.down, self.algorithm, self.backbone.device)
        self.guard = Guard(job)
        self.tally = Tally(job, self.guard.cost if self.guard.on else None)
        self.seats: Seats | None = None
        self.vectors = Vectors()
        self.folds = Folds(self.vectors)
        self._packed = torch.empty(0)

    def ready(self) -> None:
        """All is loaded. The process is the host's alone: what is there stays, and is no longer looked through for garbage, which takes
        longer than many a round."""
        gc.freeze()

    def open(self) -> np.ndarray:
        """What travels first, [P]: starting values of the shared parts, zeros for auxiliary state."""
        down, start = self.job.down.payload, start_of(self.algorithm, self.backbone, self.experiment.seed)
        first = Update({n: start[n] for n in down.weights}, {n: torch.zeros(s) for n, s in down.aux.items()})
        return self.job.down.pack_one(first)

    def survey(self, group: Group, patience: float | None = None) -> dict[int, State]:
        """What each of these clients tells once, before round 0."""
        found: dict[int, State] = {}
        self.turns.start()
        with self._trying(0, group, patience):
            told = self.algorithm.survey(self._trainer(group, 0))
            found = {number: {n: t.cpu() for n, t in seat(told, k).items()} for k, number in enumerate(group)}
        for failed in self.turns.end():  # who tells nothing has no place among the clusters
            raise RunError(f"round 0, client {', '.join(self.turns.names[c] for c in failed.clients)}: {failed.why}")
        return found

    def train(
        self, round: int, groups: Sequence[Group], sent: np.ndarray, total_rows: int, *, cluster: int = 0, of: int = 1,
        leaves: Sequence[tuple[int, int]] = (), lag: int = 0, known: Known | None = None, ahead: States = (),
        patience: float | None = None,
    ) -> tuple[list[np.ndarray], SliceReport]:  # fmt: skip
        """Trains these clients. Their updates, each weighted by its share of `total_rows`, are added to what the host has for their
        cluster in this round (see `gather`); where the method needs each of them, they are what it gives. And the report. A leaf of which
        somebody failed is as if it had not been tried.

        of: how many leaves the cluster's sum has; leaves: those that the groups are, and how many groups each has. lag: they began
        so many rounds ago, with what was then sent. known: None to look into the files; ahead: states that the next call will need, as for
        `Keeper.ahead`. patience: seconds for each client.
        """
        started, waited, tally = perf_counter(), self.store.seconds, self.tally.start()
        fold, each, failed = self.folds.of(round, cluster, of), [], self.turns.start()
        bounds = accumulate((count for _, count in leaves or [(0, len(groups))]), initial=0)
        for (number, _), (a, b) in zip(leaves or [(0, 0)], pairwise(bounds), strict=True):
            total = None if self.algorithm.each else self.vectors.take(self.guard.numbers, self.guard.kind)
            done, own, before = [], [], len(failed)
            for i in range(a, b):
                self.store.ahead(_after(groups, i, known, ahead))
                with self._trying(round, groups[i], patience, number):
                    trainer = self._trainer(groups[i], round - lag, total_rows)
                    vectors, rests = self._turn(trainer, groups[i], round, sent, known)
                    if total is None:
                        own += [self._crossing(vector, client) for vector, client in zip(vectors, groups[i], strict=True)]
                    else:
                        self.guard.add(total, vectors, groups[i], trainer.share.tolist(), round, first=i == a)
                    done.append(Done(groups[i], round, trainer.effort, rests))
            if len(failed) == before:
                each += own
                for one in done:
                    tally.add(one.group, one, one.rests)
                if total is not None:
                    fold.add(total, number, number + 1)
        return each, tally.report(perf_counter() - started, self.store.seconds - waited, self.turns.end())

    def give(self, ahead: States = ()) -> list[Sum]:
        """What the host has added up in this round, and now no longer has. All that its clients own is at rest by then: if this process
        dies, nothing of it is missing. ahead: see `settle`."""
        self.settle(ahead)
        return self.folds.gather()

    def absorb(self, round: int, sums: Sequence[Sum]) -> None:
        """Adds what another host has added up."""
        self.folds.absorb(round, sums)

    def score(
        self, round: int, groups: Sequence[Group], sent: np.ndarray, views: Sequence[str], *,
        known: Known | None = None, ahead: States = (), patience: float | None = None,
    ) -> ScoreReport:  # fmt: skip
        """What these clients score as they are before `round`; see `train` and `evaluate`."""
        started, found = perf_counter(), Scores()
        self.turns.start()
        for i, group in enumerate(groups):
            self.store.ahead(_after(groups, i, known, ahead))
            with self._trying(round, group, patience):
                found |= self.evaluate(round, group, sent, views, known)
        return ScoreReport(found, perf_counter() - started, self.turns.end())

    def evaluate(self, round: int, group: Group, sent: np.ndarray, views: Sequence[str], known: Known | None = None) -> Scores:
        """What these clients score as they are before `round` (or after its local steps) in the views `base`, `shared`, `personal`.

        It leaves no trace: newcomers start anew when they are trained, with what the server then sends.
        """
        trainer = self._trainer(group, round, self.job.rows)
        down = self.sent.widened(sent, group)
        mine = self._owned(group, round, trainer, down, known)
        found = examine(self.scorer, trainer, down, self.guard.parted(mine.state)[0], views)
        self.sent.check()
        owned.release(self.store, mine)
        return found

    def settle(self, ahead: States = ()) -> None:
        """Returns when all private state is at rest; what the round needed of memory is given back."""
        self.store.flush()
        self.sent.forget()
        give_back()
        self.store.ahead(ahead)

    def close(self) -> None:
        """Nothing is left on the backbone, and no thread."""
        if self.seats is not None:
            self.seats.detach()
        self.store.close()

    def _turn(
        self, trainer: SeatTrainer, group: Group, round: int, sent: np.ndarray, known: Known | None
    ) -> tuple[np.ndarray, dict[int, int]]:
        """One group's training, private state from and to the keeper: what goes up, [K, P], good until the next turn; whose state was
        written."""
        down = self.sent.widened(sent, group)
        mine = self._owned(group, round, trainer, down, known)
        own, rest = self.guard.parted(mine.state)
        up, after = self.algorithm.client(trainer, down, own)
        self.sent.check()
        check_finite(trainer.effort.loss)
        if len(self._packed) < len(group):
            self._packed = torch.from_numpy(np.empty((len(group), self.job.up.numbers), np.float32))
        vectors = self.job.up.pack(up, len(group), self._packed[: len(group)])
        vectors, rest = self.guard.leave(vectors, sent, group, round, rest)
        return vectors, owned.keep(self.store, mine, round, remembering(after, rest), self.sent.place)

    def _owned(self, group: Group, round: int, trainer: SeatTrainer, down: Update, known: Known | None) -> Owned:
        def start() -> ClientState:
            return self.guard.start(self.algorithm.start(trainer, down), len(group))

        lent = self.sent.place
        return owned.take(self.store, group, round, known, start, self.backbone.device, lent)

    @contextmanager
    def _trying(self, round: int, group: Group, patience: float | None = None, leaf: int = -1) -> Iterator[None]:
        """A group's turn. After one that failed, nothing that it may have written to is used again."""
        with self.turns.turn(round, group, patience, leaf):
            try:
                yield
            except BaseException:
                self.store.drop(group)
                self.sent.forget()
                raise

    def _crossing(self, vector: np.ndarray, number: int) -> np.ndarray:
        """A copy of what of a client's update crosses; the rest must be zero."""
        mask = self.job.up.crossing(self.algorithm.cut(self.job.up.payload, number))
        if mask is not None and vector[~mask].any():
            raise LeakError("a client of lower rank may send its leading corner only; the rest is not zero")
        return vector.copy() if mask is None else vector[mask]

    def _trainer(self, group: Group, round: int, total_rows: int | None = None) -> SeatTrainer:
        if self.seats is None or self.seats.seats != len(group):
            if self.seats is not None:
                self.seats.detach()
            self.seats = Seats(self.backbone, self.algorithm.parts, len(group))
        return SeatTrainer(self.job, self.backbone, self.seats, self.corpus, group, round, total_rows)


def _after(groups: Sequence[Group], i: int, known: Known | None, ahead: States) -> States:
    """What will be needed after group i."""
    if i + 1 == len(groups):
        return ahead
    return [(c, known[c]) for c in groups[i + 1] if c in known] if known else []
