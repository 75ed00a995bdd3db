"""Scoring of K clients' held-out rows in one forward, in as many views of the model as asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from flexray.data.clients import Client
from flexray.data.corpus import Corpus
from flexray.metric import Metric, Scored, merge
from flexray.models.backbone import Backbone
from flexray.models.seats import Seats
from flexray.sim.lm import Row, collate, respond
from flexray.state import State, part_of

NO_ROW: Row = (np.zeros(1, np.int32), 1 << 30)
"""Fills the seat of a client whose rows are all scored: one token, no response."""

Counts = dict[str, float]


def score(
    backbone: Backbone, seats: Seats, corpus: Corpus, clients: Sequence[Client], views: Mapping[str, State],
    metrics: Sequence[Metric], batch: int, split: str = "test",
) -> list[dict[str, list[Counts]]]:  # fmt: skip
    """Per client, per view, the counts of each metric, over the rows of `split`.

    A view is the weights [K, …] in force; an empty one is the frozen model.
    """
    totals = [{view: [Counts() for _ in metrics] for view in views} for _ in clients]
    rows = [_by_length(corpus, getattr(client, split)) for client in clients]
    for view, weights in views.items():
        seats.put(weights)
        with torch.no_grad(), seats.using({part_of(name) for name in weights}):
            for chosen in _batches(rows, batch):
                for k, scored in _scores(backbone, chosen):
                    mine = totals[k][view]
                    mine[:] = [merge(count, metric.count(scored)) for count, metric in zip(mine, metrics, strict=True)]
    return totals


def _scores(backbone: Backbone, chosen: list[list[Row]]) -> Iterator[tuple[int, Scored]]:
    """Each seat's rows of one forward, without the fillers."""
    response = respond(backbone, collate(chosen, str(backbone.device)))
    nll, hits, tokens = (t.sum(1).view(len(chosen), -1).cpu() for t in response)
    for k, rows in enumerate(chosen):
        real = sum(row is not NO_ROW for row in rows)
        if real:
            yield k, Scored(nll[k, :real], tokens[k, :real], hits[k, :real])


def _by_length(corpus: Corpus, rows: np.ndarray) -> list[Row]:
    """Rows of similar length side by side waste little padding; the sort is stable, so the order is always the same."""
    return sorted(corpus.rows(rows), key=lambda row: len(row[0]))


def _batches(rows: list[list[Row]], batch: int) -> Iterator[list[list[Row]]]:
    for i in range(0, max(map(len, rows)), batch):
        chosen = [mine[i : i + batch] for mine in rows]
        width = max(map(len, chosen))
        yield [mine + [NO_ROW] * (width - len(mine)) for mine in chosen]
