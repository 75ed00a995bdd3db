"""Optuna's sampler: it learns, repeats settings with all seeds, and goes on from what is known."""

from math import log

import pytest

from flexray.sweeping.records import Record
from flexray.sweeping.spec import read
from flexray.sweeping.suggesting import Suggesting

CONSTANT = {"train": {"schedule": "constant"}}
TARGETS = [["q"], ["q", "v"]]


def spec(**sweep):
    over = {"train.lr": {"loguniform": [1e-4, 1e-1]}, "algorithm.lora.targets": {"choice": TARGETS}, "seed": [0, 1]}
    return read({**CONSTANT, "sweep": {"over": over, "search": "optuna", **sweep}})


def value(point) -> float:
    """Best at 0.01."""
    return abs(log(point["train.lr"] / 0.01))


def test_every_suggestion_is_played_with_all_seeds():
    suggesting = Suggesting(spec())
    points = [suggesting.point(n) for n in range(6)]
    assert [p["seed"] for p in points] == [0, 1] * 3
    assert [points[i]["train.lr"] == points[i + 1]["train.lr"] for i in range(5)] == [True, False] * 2 + [True]
    assert all(p["algorithm.lora.targets"] in TARGETS for p in points)


def test_it_comes_near_the_best_and_is_told_means_over_seeds():
    suggesting = Suggesting(spec())
    found = []
    for n in range(80):
        point = suggesting.point(n)
        found.append(value(point))
        suggesting.tell(n, value(point) + (0.5 if point["seed"] else -0.5))  # seeds differ by 1: the mean is the value
    assert sum(found[-20:]) < 0.5 * sum(found[:20])
    assert suggesting.study.best_value == pytest.approx(min(found))


def test_it_goes_on_from_what_is_known_and_does_not_suggest_it_again():
    first, known = Suggesting(spec()), []
    for n in range(10):
        point = first.point(n)
        first.tell(n, value(point))
        known.append((Record(n, point, {}, status="finished"), value(point)))
    again = Suggesting(spec(), known)
    assert [t.value for t in again.study.trials] == [t.value for t in first.study.trials]
    assert [again.point(n) for n in range(10)] == [record.point for record, _ in known]
    assert again.point(10)["train.lr"] not in {record.point["train.lr"] for record, _ in known}


def test_a_setting_of_which_a_seed_failed_counts_for_nothing():
    suggesting = Suggesting(spec())
    suggesting.point(0)
    suggesting.tell(0, 1.0)
    suggesting.tell(1, None)
    assert [t.state.name for t in suggesting.study.trials] == ["FAIL"]
