"""Clients' numbers in several views of a model, as a run reports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flexray.metric import Number
from flexray.serve import joined
from flexray.serve.finished import Finished
from flexray.sim.local.evaluator import Scorer
from flexray.sim.summary import numbers_of
from flexray.state import State

Numbers = dict[str, dict[str, float]]
"""View to the numbers of every metric."""


def score(run: Finished, client: int, views: Mapping[str, State]) -> Numbers:
    """On the client's rows of evaluation.split; `views` are weights [1, …]."""
    return _scored(run, run.scorer, client, views)


def score_joined(run: Finished, name: str, views: Mapping[str, State]) -> Numbers:
    """The same for a client who joined."""
    corpus, client = joined.rows(run.path, name)
    scorer = Scorer(replace(run.job, corpus=corpus.path, clients=(client,)), run.backbone, corpus)
    return _scored(run, scorer, 0, views)


def _scored(run: Finished, scorer: Scorer, client: int, views: Mapping[str, State]) -> Numbers:
    (marks,) = scorer.score(run.seats, (client,), views)
    return {view: _values(run, found.sums()) for view, found in marks.items()}


def shown(run: Finished, numbers: Mapping[str, float]) -> dict[str, Number]:
    """How each of these numbers reads."""
    return dict(numbers_of(run.job, dict(numbers)))


def _values(run: Finished, sums: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for metric in run.job.metrics for name, value in metric.value(sums).items()}
