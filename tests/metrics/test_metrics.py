"""Every metric's law and numbers by hand."""

import math
from collections.abc import Mapping

import pytest
import torch

from flexray import folder
from flexray.metric import Answered, Metric, Number, Scored

METRICS = [folder.load("metrics", name, "evaluation.metrics")() for name in folder.listing("metrics")]
# three rows: 2, 1 and 3 response tokens, of which 2, 0 and 3 are hit; the second was not asked for a text
SCORED = Scored(
    torch.tensor([1.0, 4.0, 1.0]), torch.tensor([2, 1, 3]), torch.tensor([2, 0, 3]),
    ("the cat sat", None, "dogs run"), ("the cat slept", "x", "a running dog"),
)  # fmt: skip
# two questions of three and two choices
ANSWERED = Answered(
    torch.tensor([[6.0, 5.0, 7.0], [1.0, 2.0, math.inf]]), torch.tensor([[6, 1, 14], [1, 4, 1]]), torch.tensor([2, 1])
)


def what(metric: Metric) -> Scored | Answered:
    return ANSWERED if metric.needs_probe else SCORED


def only(given: Scored | Answered, rows: slice) -> Scored | Answered:
    return type(given)(**{name: values[rows] for name, values in vars(given).items()})


def total(metric: Metric, given: Scored | Answered) -> dict[str, float]:
    return {key: float(counts.double().sum()) for key, counts in metric.count(given).items()}


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_a_rows_counts_depend_on_that_row_alone(metric):
    given = what(metric)
    whole = metric.count(given)
    n = len(next(iter(whole.values())))
    apart = [metric.count(only(given, slice(i, i + 1))) for i in range(n)]
    for key, counts in whole.items():
        assert counts.shape == (n,)
        assert torch.equal(counts, torch.cat([one[key] for one in apart]))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_every_number_says_how_it_reads(metric):
    assert set(metric.numbers) == set(metric.value(total(metric, what(metric))))
    assert [n for n in metric.numbers if metric.less(n)] == [n for n in metric.numbers if n in ("loss", "perplexity")]


def test_values_by_hand():
    values = {k: v for m in METRICS if not m.needs_probe for k, v in m.value(total(m, SCORED)).items()}
    assert values["loss"] == 1.0  # (1 + 4 + 1) / (2 + 1 + 3)
    assert values["perplexity"] == math.e
    assert values["exact_match"] == 2 / 3  # rows 1 and 3
    assert values["token_accuracy"] == 5 / 6
    # ROUGE over rows 1 and 3. the cat sat | the cat slept: 2 of 3 words, so F = 2/3; 1 of 2 pairs, so 1/2; the cat in order.
    # dogs run | a running dog, by their stems dog run | a run dog: precision 2/2, recall 2/3, F = 4/5; no pair in common;
    # in order only one of them: 1/2, 1/3, F = 2/5.
    assert values["rouge1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert values["rouge2"] == pytest.approx((1 / 2 + 0) / 2)
    assert values["rougeL"] == pytest.approx((2 / 3 + 2 / 5) / 2)


def test_choices_by_length_and_by_sum():
    (choice,) = (m for m in METRICS if m.name == "choice")
    # per byte: 6/6, 5/1, 7/14 → the third, right; 1/1, 2/4 → the second, right. By sum: the second, the first: both wrong.
    assert choice.value(total(choice, ANSWERED)) == {"probe_accuracy": 1.0, "probe_accuracy_sum": 0.0}
    counts = {key: values.tolist() for key, values in choice.count(ANSWERED).items()}
    assert counts == {"right": [True, True], "right_by_sum": [False, False], "questions": [1, 1]}


def test_a_metric_that_says_nothing_of_its_numbers_is_better_when_more():
    class Plain(Metric):
        def count(self, scored: Scored) -> dict:
            return {"n": scored.tokens}

        def value(self, counts: Mapping[str, float]) -> dict[str, float]:
            return {"all_of_it": counts["n"]}

    assert Plain.number("all_of_it") == Number("all of it", less=False, scale=1.0, decimals=3, shown=True)
