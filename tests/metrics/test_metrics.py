"""Every metric of the folder is a monoid, and its numbers are right by hand."""

import math

import pytest
import torch

from flexray import folder
from flexray.metric import Scored, merge

METRICS = [folder.load("metrics", name, "evaluation.metrics")() for name in folder.listing("metrics")]
# three rows: 2, 1 and 3 response tokens, of which 2, 0 and 3 are hit
SCORED = Scored(torch.tensor([1.0, 4.0, 1.0]), torch.tensor([2, 1, 3]), torch.tensor([2, 0, 3]))


def cut(scored: Scored, rows: slice) -> Scored:
    return Scored(scored.nll[rows], scored.tokens[rows], scored.hits[rows])


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_counts_add_up_in_any_order(metric):
    whole = metric.count(SCORED)
    pieces = [metric.count(cut(SCORED, slice(i, i + 1))) for i in range(3)]
    left = merge(merge(pieces[0], pieces[1]), pieces[2])
    right = merge(pieces[2], merge(pieces[1], pieces[0]))
    assert left == right == merge({}, whole) == whole
    assert metric.value(left) == metric.value(whole)


def test_values_by_hand():
    values = {k: v for m in METRICS for k, v in m.value(m.count(SCORED)).items()}
    assert values["loss"] == 1.0  # (1 + 4 + 1) / (2 + 1 + 3)
    assert values["perplexity"] == math.e
    assert values["exact_match"] == 2 / 3  # rows 1 and 3
    assert values["token_accuracy"] == 5 / 6
