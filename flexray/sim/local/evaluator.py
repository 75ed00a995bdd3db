"""Scoring of K clients' held-out rows, and of the probe, in one forward for all, in as many views of the model as asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flexray.data.corpus import Corpus
from flexray.errors import expected
from flexray.metric import Answered, Metric, Scored
from flexray.models.backbone import Backbone
from flexray.models.seats import Seats
from flexray.sim.job import Job
from flexray.sim.local import kit as kits
from flexray.sim.local.generation import NO_PROMPT, greedy
from flexray.sim.local.kit import Kit
from flexray.sim.local.lm import NO_ROW, Row, batcher, filled, respond
from flexray.sim.local.probe import Inside
from flexray.state import State, part_of

if TYPE_CHECKING:
    from torch import Tensor

Counts = dict[str, np.ndarray]


@dataclass(frozen=True)
class Marks:
    """What one client's rows, N with the probe's questions behind them, count in one view.

    rows [N]: numbers in the corpus, or −1 − the question's number in its file. counts: key to [N], zero where a row has no
    such count.
    """

    rows: np.ndarray
    counts: Counts

    def sums(self) -> dict[str, float]:
        """Over all rows."""
        return {key: float(values.sum()) for key, values in self.counts.items()}


class Scorer:
    """Scores clients on one backbone."""

    def __init__(self, job: Job, backbone: Backbone, corpus: Corpus):
        self.job, self.backbone, self.corpus, self.x = job, backbone, corpus, job.experiment.evaluation
        self._batch = batcher(backbone, job.algorithm.parts)
        self.of_rows = [m for m in job.metrics if not m.needs_probe]
        self.of_probe = [m for m in job.metrics if m.needs_probe]

    def score(self, seats: Seats, group: Sequence[int], views: Mapping[str, State]) -> list[dict[str, Marks]]:
        """Per client of the group, per view. A view is the weights [K, …] in force; an empty one is the frozen model."""
        found: dict[str, list[Marks]] = {}
        for view, weights in views.items():
            same = next((other for other in found if _same(views[other], weights)), None)
            found[view] = found[same] if same else self._score(seats, group, weights)
        return [{view: marks[k] for view, marks in found.items()} for k in range(len(group))]

    def _score(self, seats: Seats, group: Sequence[int], weights: State) -> list[Marks]:
        seats.put(weights)
        inside = partial(seats.using, {part_of(name) for name in weights})
        numbers = [getattr(self.job.clients[client], self.x.split) for client in group]
        rows = [self._counted(scored, self.of_rows) for scored in self._rows(inside, group, numbers)] if self.of_rows else []
        asked = [self._counted(answered, self.of_probe) for answered in self._asked(inside, group, not weights)]
        return [
            _joined(numbers[k] if rows else numbers[k][:0], rows[k] if rows else {}, self._questions, asked[k] if asked else {})
            for k in range(len(group))
        ]

    def _rows(self, inside: Inside, group: Sequence[int], numbers: Sequence[np.ndarray]) -> Iterator[Scored]:
        """Each client's rows, in their order."""
        rows = [self.corpus.rows(mine) for mine in numbers]
        sums = self._responses(inside, rows)
        texts = [()] * len(group)
        references = texts
        if any(m.needs_generation for m in self.of_rows):
            texts = self._texts(inside, group, rows)
            references = [self.kit.tokenizer.decode(tokens[start:].tolist() for tokens, start in mine) for mine in rows]
        for (nll, tokens, hits), said, wanted in zip(sums, texts, references, strict=True):
            yield Scored(nll, tokens, hits, said, wanted)

    def _responses(self, inside: Inside, rows: list[list[Row]]) -> list[Tensor]:
        """Per client [3, N]: loss, tokens and hits of each response. Rows of like length go together: little padding."""
        sums = [torch.zeros(3, len(mine), dtype=torch.float64) for mine in rows]
        order = [sorted(range(len(mine)), key=lambda i, mine=mine: len(mine[i][0])) for mine in rows]
        for places in filled(order, self.x.batch, None):
            chosen = [[NO_ROW if i is None else mine[i] for i in at] for mine, at in zip(rows, places, strict=True)]
            batch = self._batch(chosen)
            with torch.no_grad(), inside(starts=batch.starts, widths=batch.widths):
                response = respond(self.backbone, batch)
            found = torch.stack([t.cpu().double().sum(1) for t in (response.nll, response.counted, response.hit)])
            for k, at in enumerate(places):
                real = [i for i in at if i is not None]
                sums[k][:, real] = found.view(3, len(places), -1)[:, k, : len(real)]
        return sums

    def _texts(self, inside: Inside, group: Sequence[int], rows: list[list[Row]]) -> list[list[str | None]]:
        """Per client what its model answers to each of its rows, None where it was not asked."""
        texts: list[list[str | None]] = [[None] * len(mine) for mine in rows]
        order = [self._to_generate(client, mine) for client, mine in zip(group, rows, strict=True)]
        anchored = any(p.kind == "anchors" for p in self.job.algorithm.parts)
        for places in filled(order, self.x.batch, None):
            prompts = [
                [NO_PROMPT if i is None else mine[i][0][: mine[i][1]] for i in at]
                for mine, at in zip(rows, places, strict=True)
            ]
            width = max(len(prompt) for mine in prompts for prompt in mine)
            starts = torch.full((sum(map(len, prompts)),), width, device=self.backbone.device)
            with inside(starts=starts):
                said = greedy(self.backbone, prompts, self._ends, self.x.max_new_tokens, shrink=not anchored)
            for k, at in enumerate(places):
                for i, text in zip(at, self.kit.tokenizer.decode(said[k]), strict=True):
                    if i is not None:
                        texts[k][i] = text
        return texts

    def _to_generate(self, client: int, rows: list[Row]) -> list[int]:
        """Places of the rows to generate for, chosen by the seed, shorter prompts first."""
        rng = np.random.default_rng(np.random.SeedSequence([self.job.experiment.seed, client, 0x6E4E]))
        chosen = rng.permutation(len(rows))[: self.x.generate_rows].tolist()
        return sorted(chosen, key=lambda i: (rows[i][1], i))

    def _asked(self, inside: Inside, group: Sequence[int], bare: bool) -> list[Answered]:
        """Each client's answers to the probe; those of the frozen model are everybody's."""
        if not self.of_probe:
            return []
        assert self.kit.probe is not None
        if bare:
            return self._frozen_answers * len(group)
        return self.kit.probe.ask(self.backbone, inside, len(group), self.x.batch)

    def _counted(self, what: Scored | Answered, metrics: Iterable[Metric]) -> Counts:
        """All metrics' counts of these rows."""
        found: Counts = {}
        for metric in metrics:
            for key, counts in metric.count(what).items():
                own = counts.double().cpu().numpy()
                if not np.array_equal(found.setdefault(key, own), own, equal_nan=True):
                    raise expected("evaluation.metrics", "other keys for other counts", key, f"rename it in {metric.name}")
        return found

    @cached_property
    def kit(self) -> Kit:
        assert self.job.kit is not None
        return kits.load(self.job.kit)

    @cached_property
    def _questions(self) -> np.ndarray:
        probe = self.kit.probe if self.of_probe else None
        return -1 - np.array(probe.numbers if probe else [], np.int64)

    @cached_property
    def _frozen_answers(self) -> list[Answered]:
        assert self.kit.probe is not None
        return self.kit.probe.ask(self.backbone, _bare, 1, self.x.batch)

    @cached_property
    def _ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, and what the model's config says."""
        said = getattr(self.backbone.model.config, "eos_token_id", None)
        return sorted({self.kit.tokenizer.eos, *(said if isinstance(said, list) else [] if said is None else [said])})


def _bare(**_: Any) -> AbstractContextManager[None]:
    """The frozen model."""
    return nullcontext()


def padded(rows: list[list[Row]], batch: int) -> Iterator[list[list[Row]]]:
    """`batch` rows of each seat at a time, as many for all seats."""
    yield from filled(rows, batch, NO_ROW)


def _same(x: State, y: State) -> bool:
    """Whether two views are of the very same tensors."""
    return x.keys() == y.keys() and all(t is y[name] for name, t in x.items())


def _joined(rows: np.ndarray, of_rows: Counts, questions: np.ndarray, of_questions: Counts) -> Marks:
    """Rows and, behind them, questions; what the one side does not count is zero there."""
    none, nothing = np.zeros(len(rows)), np.zeros(len(questions))
    keys = {**of_rows, **of_questions}
    counts = {key: np.concatenate([of_rows.get(key, none), of_questions.get(key, nothing)]) for key in keys}
    return Marks(np.concatenate([rows, questions]).astype(np.int64), counts)
