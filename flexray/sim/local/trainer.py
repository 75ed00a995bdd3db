"""Local training of the K clients of one group, in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexray.algorithm import Part, Penalty, Split
from flexray.config import Train
from flexray.data.clients import Client, order
from flexray.data.corpus import Corpus
from flexray.models.backbone import Backbone
from flexray.models.seats import Seats
from flexray.models.usage import Usage
from flexray.sim.job import Job
from flexray.sim.local.evaluator import padded
from flexray.sim.local.lm import Batch, Row, batcher, collate, respond
from flexray.sim.local.newcomers import Newcomers, seed_of
from flexray.sim.local.optimizer import Step, adamw, clip_, sgd
from flexray.sim.schedule import cohort_size, learning_rate
from flexray.state import State, part_of

FIXED = (1 << 20) + 1
"""The stream of batches that rows to look inside with come from: no method trains on it."""


@dataclass
class Effort:
    """What local training of a round cost and gave: per seat the summed loss, steps, tokens seen; the parts trained."""

    loss: np.ndarray
    steps: np.ndarray
    tokens: np.ndarray
    parts: set[str]


class SeatTrainer:
    """A `LocalTrainer` for the trainees `group`, whose weights live in `seats`.

    `total_rows`: training rows of the round's whole cohort (of the cluster), None outside of a round.
    """

    def __init__(
        self, job: Job, backbone: Backbone, seats: Seats, corpus: Corpus, group: Sequence[int], round: int, total_rows: int | None = None
    ):  # fmt: skip
        x = self.experiment = job.experiment
        self.job, self.backbone, self.seats, self.corpus, self.round = job, backbone, seats, corpus, round
        self.numbers, self.clients = group, [job.trainees[number] for number in group]
        k, device = len(group), backbone.device
        self._lr = rate(x.train, x.train.lr, round, x.rounds)
        self._private_lr = rate(x.train, x.train.private_lr or x.train.lr, round, x.rounds)
        self.accumulate = x.train.accumulate * (cohort_size(len(job.clients), x.cohort) if job.algorithm.pooled else 1)
        self._steps = [x.train.local_steps(len(c.train), x.train.batch * self.accumulate) for c in self.clients]
        self.lr = torch.full((k,), self._lr, device=device)
        self.steps = torch.tensor(self._steps, device=device)
        self.rows = torch.tensor([len(c.train) for c in self.clients], device=device)
        self.share = self.rows / (total_rows or sum(len(c.train) for c in job.clients))
        if x.privacy.dp.where != "none":  # rows would tell of the client
            self.share = torch.full((k,), 1 / job.cohort, device=device)
        self.client = torch.tensor(list(group), device=device)
        self.effort = Effort(np.zeros(k), np.zeros(k), np.zeros(k), set())
        self.trained = State()
        """What the `fit`s so far gave, later ones over earlier: the client's model after its local steps."""
        seats.recompute(x.train.recompute)
        self._batch = batcher(backbone, job.algorithm.parts)
        self._newcomers = Newcomers(job, backbone, corpus, group)
        self._usage = Usage(backbone, k) if any(p.kind == "routed" for p in job.algorithm.parts) else None

    def fit(
        self, weights: State, *, train: frozenset[str] | None = None, penalty: Penalty | None = None,
        steps: int | None = None, split: Split = "train", stream: int = 0, same_batch: bool = False, mask: State | None = None,
    ) -> State:  # fmt: skip
        """See `LocalTrainer.fit`."""
        parts = {part_of(name) for name in weights}
        trained = parts if train is None else set(train)
        per_seat = self._steps if steps is None else [steps] * len(self.clients)
        self._put(weights)
        update = self._optimizer(sorted(trained))
        dropout = [self._generator(number, stream) for number in self.numbers]
        losses, tokens = torch.zeros_like(self.lr), np.zeros(len(self.clients))
        moves = np.arange(max(per_seat))[:, None] < np.array(per_seat)
        on_device = torch.from_numpy(moves).to(self.lr.device, self.lr.dtype)
        batches = self._batches(len(moves), split, stream)
        batches = repeat(next(batches), len(moves)) if same_batch else batches
        for step, (batch, moving, move) in enumerate(zip(batches, on_device, moves.tolist(), strict=True)):
            self.seats.zero_grad()
            losses += self._backward(batch, parts, trained, moving, dropout)
            if penalty is not None:
                with self.seats.using(parts, train=trained):
                    (penalty(self.seats.live(trained)) * moving).sum().backward()
            self._masked(mask or {})
            update(move, self._warm(step))
            self._held(mask or {}, weights)
            seen = [sum(len(row[0]) for micro in batch for row in micro[k]) for k in range(len(self.clients))]
            tokens += np.array(seen) * move
        self._count(losses, np.array(per_seat), tokens, trained)
        del update  # its moments make room for the copies
        after = self.seats.take(parts)
        self.trained = {**self.trained, **after}
        return after

    def gradient(self, weights: State, *, split: Split = "train", stream: int = 0) -> State:
        """See `LocalTrainer.gradient`."""
        parts = {part_of(name) for name in weights}
        self._put(weights)
        self.seats.zero_grad()
        for step, batch in enumerate(self._batches(max(self._steps), split, stream)):
            self._backward(batch, parts, parts, (step < self.steps).to(self.lr.dtype), None)
        with self.seats.using(parts, train=parts):
            grads = {name: t.grad for name, t in self.seats.live(parts).items() if t.grad is not None}
        return {name: g / self.steps.view(-1, *[1] * (g.dim() - 1)) for name, g in grads.items()}

    def loss(self, weights: State, *, split: Split = "valid") -> Tensor:
        """See `LocalTrainer.loss`."""
        self._put(weights)
        nll, tokens = torch.zeros_like(self.lr), torch.zeros_like(self.lr)
        rows = [sorted(self.corpus.rows(getattr(c, split)), key=lambda row: len(row[0])) for c in self.clients]
        for chosen in padded(rows, self.experiment.evaluation.batch):
            batch = self._batch(chosen)
            with torch.no_grad(), self._using({part_of(name) for name in weights}, batch):
                response = respond(self.backbone, batch)
            nll += response.nll.view(len(rows), -1).sum(1)
            tokens += response.counted.view(len(rows), -1).sum(1)
        return nll / tokens.clamp(min=1)

    def fresh(self, parts: tuple[Part, ...]) -> State:
        """See `LocalTrainer.fresh`."""
        with self.seats.using(()):
            return self._newcomers.fresh(parts)

    def profile(self) -> State:
        """See `LocalTrainer.profile`."""
        with self.seats.using(()):
            return self._newcomers.profile()

    def usage(self) -> State:
        """See `LocalTrainer.usage`."""
        assert self._usage is not None, "no part of the method adapts the routed experts"
        return self._usage.counts()

    def fixed_rows(self, count: int) -> Batch:
        """So many valid rows of each client, the same ones in every round, as one batch."""
        chosen = [order(client.valid, self.experiment.seed, number, 0, count, FIXED) for client, number in self._each()]
        return collate([self.corpus.rows(rows) for rows in chosen], str(self.backbone.device))

    @cached_property
    def frozen(self) -> State:
        """The values of frozen parts, which are in force whenever anything is."""
        return self.fresh(tuple(p for p in self.job.algorithm.parts if p.where == "frozen"))

    def _put(self, weights: State) -> None:
        """Weights into the seats, and those of frozen parts, which are in force by themselves."""
        self.seats.put(self.frozen | weights)

    def _using(self, parts: Set[str], batch: Batch, **more: Any) -> AbstractContextManager[None]:
        return self.seats.using({*parts, *map(part_of, self.frozen)}, widths=batch.widths, starts=batch.starts, **more)

    def _backward(
        self, micros: list[list[list[Row]]], parts: Set[str], trained: Set[str], moving: Tensor, dropout: list[torch.Generator] | None
    ) -> Tensor:  # fmt: skip
        """Adds up the gradients of one step, over its micro-batches: each seat's mean over all its response tokens; gives the loss [K]."""
        lengths = [[len(t) - start for m in micros for t, start in m[k]] for k in range(len(self.clients))]
        tokens = torch.tensor(lengths).sum(1).clamp(min=1).to(self.lr.device, non_blocking=True)
        losses = torch.zeros_like(self.lr)
        for rows in micros:
            batch = self._batch(rows)
            counting = self._usage.counting(batch.lengths, moving) if self._usage else nullcontext()
            with self._using(parts, batch, train=trained, dropout=dropout), counting:
                loss = respond(self.backbone, batch).nll.view(len(self.clients), -1).sum(1) / tokens
                (loss * moving).sum().backward()
            losses += loss.detach() * moving
        return losses

    def _masked(self, mask: State) -> None:
        """No gradient where the mask is zero, so that it does not count for clipping either."""
        for name, t in self.seats.live().items():
            if name in mask and t.grad is not None:
                t.grad.mul_(mask[name])

    def _held(self, mask: State, start: State) -> None:
        """What the mask holds keeps its value, whatever weight decay says."""
        if mask:
            now = self.seats.live()
            self.seats.put({name: torch.where(m > 0, now[name].detach(), start[name]) for name, m in mask.items()})

    def _warm(self, step: int) -> float:
        """The share of the learning rate in a local step: the optimizer starts afresh each round, and may be warmed up."""
        return min(1.0, (step + 1) / (self.experiment.train.warmup_steps + 1))

    def _each(self) -> Iterator[tuple[Client, int]]:
        return zip(self.clients, self.numbers, strict=True)

    def _batches(self, steps: int, split: str, stream: int) -> Iterator[list[list[list[Row]]]]:
        """For each step its micro-batches, each of `train.batch` rows for every seat."""
        b, m = self.experiment.train.batch, self.accumulate
        chosen = [
            order(getattr(client, split), self.experiment.seed, number, self.round, steps * m * b, stream)
            for client, number in self._each()
        ]
        for i in range(0, steps * m * b, m * b):
            yield [[self.corpus.rows(rows[j : j + b]) for rows in chosen] for j in range(i, i + m * b, b)]

    def _optimizer(self, trained: list[str]) -> Step:
        train, private = self.experiment.train, {p.name for p in self.job.algorithm.private}
        make = {"adamw": adamw, "sgd": sgd}[train.optimizer]
        flats = {part: self.seats.flat(part) for part in trained}
        rates = {part: [self._private_lr if part in private else self._lr] * len(self.clients) for part in trained}
        steps = [make(p, g, rates[part], train.weight_decay) for part, (p, g) in flats.items()]

        def update(moving: Sequence[bool], scale: float) -> None:
            with torch.no_grad():
                if train.clip is not None:
                    clip_([g for _, g in flats.values()], train.clip)
                for step in steps:
                    step(moving, scale)

        return update

    def _generator(self, number: int, stream: int) -> torch.Generator:
        generator = torch.Generator(self.backbone.device)
        return generator.manual_seed(seed_of(self.experiment.seed, number, self.round + 1, stream, 0xD409))

    def _count(self, losses: Tensor, steps: np.ndarray, tokens: np.ndarray, parts: set[str]) -> None:
        self.effort.loss += losses.cpu().numpy()
        self.effort.steps += steps
        self.effort.tokens += tokens
        self.effort.parts |= parts


def rate(train: Train, lr: float, round: int, rounds: int) -> float:
    """This round's learning rate; `final_lr` belongs to `train.lr`, other rates fall in proportion."""
    warm = min(1.0, (round + 1) / (train.warmup_rounds + 1))
    if train.schedule == "constant":
        return lr * warm
    return warm * learning_rate(lr, lr * train.final_lr / train.lr, round, rounds)
