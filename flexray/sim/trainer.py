"""Local training of the K clients of one group, in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flexray.algorithm import Algorithm, Part, Penalty
from flexray.config import Experiment, Train
from flexray.data.clients import Client, order
from flexray.data.corpus import Corpus
from flexray.models.backbone import Backbone
from flexray.models.graft import graft, pairs, select
from flexray.models.seats import Seats, fresh_lora
from flexray.parts import Gate, Graft
from flexray.sim.lm import Row, collate, respond, seat_loss
from flexray.sim.optimizer import Step, adamw, clip_, sgd
from flexray.sim.schedule import learning_rate
from flexray.state import State, part_of, widen

CALIBRATION_BATCH = 8
CALIBRATION = 1 << 20
"""The stream of batches that calibration rows come from: no method trains on it."""


@dataclass
class Effort:
    """What local training of a round cost and gave, per seat: summed loss, steps, tokens seen."""

    loss: np.ndarray
    steps: np.ndarray
    tokens: np.ndarray


class SeatTrainer:
    """A `LocalTrainer` for the clients `numbers`, whose weights live in `seats`."""

    def __init__(
        self, experiment: Experiment, backbone: Backbone, seats: Seats, corpus: Corpus,
        clients: Sequence[Client], numbers: Sequence[int], round: int,
    ):  # fmt: skip
        self.experiment, self.backbone, self.seats, self.corpus = experiment, backbone, seats, corpus
        self.clients, self.numbers, self.round = clients, numbers, round
        k, train, device = len(clients), experiment.train, backbone.device
        self.lr = torch.full((k,), rate(train, train.lr, round, experiment.rounds), device=device)
        self.private_lr = torch.full((k,), rate(train, train.private_lr or train.lr, round, experiment.rounds), device=device)
        self.steps = torch.full((k,), train.steps, device=device)
        self.rows = torch.tensor([len(c.train) for c in clients], device=device)
        self.effort = Effort(np.zeros(k), np.zeros(k), np.zeros(k))

    def fit(
        self, weights: State, *, train: frozenset[str] | None = None, penalty: Penalty | None = None,
        steps: int | None = None, split: Literal["train", "valid"] = "train", stream: int = 0,
    ) -> State:  # fmt: skip
        """See `LocalTrainer.fit`."""
        parts = {part_of(name) for name in weights}
        trained = parts if train is None else set(train)
        per_seat = self.steps if steps is None else torch.full_like(self.steps, steps)
        self.seats.put(weights)
        update = self._optimizer(sorted(trained))
        dropout = [self._generator(number, stream) for number in self.numbers]
        losses, tokens = torch.zeros_like(self.lr), np.zeros(len(self.clients))
        for step, rows in enumerate(self._batches(int(per_seat.max()), split, stream)):
            batch = collate(rows, str(self.backbone.device))
            moving = (step < per_seat).float()
            with self.seats.using(parts, train=trained, dropout=dropout, widths=batch.widths):
                loss = seat_loss(respond(self.backbone, batch), len(self.clients))
                total = (loss * moving).sum()
                if penalty is not None:
                    total = total + (penalty(self.seats.live(trained)) * moving).sum()
                self.seats.zero_grad()
                total.backward()
            update(moving)
            losses += loss.detach() * moving
            tokens += batch.lengths.view(len(self.clients), -1).sum(1).cpu().numpy() * moving.cpu().numpy()
        self._count(losses, per_seat, tokens)
        return self.seats.take(parts)

    def fresh(self, parts: tuple[Part, ...]) -> State:
        """See `LocalTrainer.fresh`."""
        seed = self.experiment.seed
        state = State()
        for part in (p for p in parts if p.kind == "lora"):
            state |= widen(fresh_lora(part, self.backbone, seed), len(self.clients))
        for expert, gate in pairs(parts):
            if not any(part_of(name) == expert.name for name in self.seats.shapes):
                continue  # a gate that is off leaves nothing to graft
            each = [self._graft(client, number, expert, gate) for client, number in self._each()]
            state |= {name: torch.stack([one[name] for one in each]) for name in each[0]}
        return state

    def _graft(self, client: Client, number: int, expert: Part, gate: Part | None) -> State:
        config, blend, seed = expert.config, gate.config if gate else None, self.experiment.seed
        assert isinstance(config, Graft) and (blend is None or isinstance(blend, Gate))
        rows = order(client.train, seed, number, 0, min(config.calibration_rows, len(client.train)), CALIBRATION)
        batches = (self._calibration(rows[i : i + CALIBRATION_BATCH]) for i in range(0, len(rows), CALIBRATION_BATCH))
        with self.seats.using(()):
            chosen = select(self.backbone, batches, config, _seed(seed, number, 0x6AF7))
        names = (expert.name, gate.name if gate else "")
        return graft(self.backbone, chosen, config, blend, seed, names)

    def _each(self) -> Iterator[tuple[Client, int]]:
        return zip(self.clients, self.numbers, strict=True)

    def _calibration(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        batch = collate([self.corpus.rows(rows)], str(self.backbone.device))
        return batch.ids, torch.arange(batch.ids.shape[1], device=batch.ids.device) < batch.lengths[:, None]

    def _batches(self, steps: int, split: str, stream: int) -> Iterator[list[list[Row]]]:
        b = self.experiment.train.batch
        chosen = [
            order(getattr(client, split), self.experiment.seed, number, self.round, steps * b, stream)
            for client, number in self._each()
        ]
        for i in range(0, steps * b, b):
            yield [self.corpus.rows(rows[i : i + b]) for rows in chosen]

    def _optimizer(self, trained: list[str]) -> Step:
        train, private = self.experiment.train, {p.name for p in self.experiment.algorithm.private}
        make = {"adamw": adamw, "sgd": sgd}[train.optimizer]
        flats = {part: self.seats.flat(part) for part in trained}
        rates = {part: self.private_lr if part in private else self.lr for part in trained}
        steps = [make(p, g, rates[part], train.weight_decay) for part, (p, g) in flats.items()]

        def update(moving: Tensor) -> None:
            with torch.no_grad():
                if train.clip is not None:
                    clip_([g for _, g in flats.values()], train.clip)
                for step in steps:
                    step(moving)

        return update

    def _generator(self, number: int, stream: int) -> torch.Generator:
        generator = torch.Generator(self.backbone.device)
        return generator.manual_seed(_seed(self.experiment.seed, number, self.round + 1, stream, 0xD409))

    def _count(self, losses: Tensor, steps: Tensor, tokens: np.ndarray) -> None:
        self.effort.loss += losses.cpu().numpy()
        self.effort.steps += steps.cpu().numpy()
        self.effort.tokens += tokens


def rate(train: Train, lr: float, round: int, rounds: int) -> float:
    """This round's learning rate; `final_lr` belongs to `train.lr`, other rates fall in proportion."""
    if train.schedule == "constant":
        return lr
    return learning_rate(lr, lr * train.final_lr / train.lr, round, rounds)


def start_of(algorithm: Algorithm, backbone: Backbone, seed: int) -> State:
    """The shared weights of round 0, without a seat axis: the same in every process."""
    state = State()
    for part in algorithm.shared:
        state |= fresh_lora(part, backbone, seed)
    return state


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
