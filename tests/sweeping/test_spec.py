"""What a sweep asks for: its trials in order, and what is refused before any of them starts."""

from pathlib import Path

import pytest
import yaml

from flexray.errors import ConfigError
from flexray.raw import override
from flexray.sweeping.spec import Spec, load, read

RANGE = {"train.batch": {"randint": [1, 9]}}
CLASH = {"algorithm.gate.mode": ["add", "mix"], "algorithm.graft.start": ["identity", "copy"]}


def spec(over: dict, also: dict | None = None, **sweep) -> Spec:
    return read({**(also or {}), "sweep": {"over": over, **sweep}})


def test_grids_are_crossed_and_every_setting_has_all_its_seeds_in_turn():
    points = spec({"seed": [0, 1], "train.lr": [0.1, 0.2]}, {"train": {"schedule": "constant"}}).points
    assert [tuple(p.values()) for p in points] == [(0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2)]


def test_draws_are_the_same_for_every_cell_of_a_grid_and_its_seeds():
    points = spec({**RANGE, "rounds": [1, 2], "seed": [0, 1]}, samples=3).points
    assert len(points) == 3 * 2 * 2
    assert [len({p["train.batch"] for p in points[i : i + 4]}) for i in (0, 4, 8)] == [1, 1, 1]


def test_a_budget_of_trials_ends_the_list():
    assert len(spec({"rounds": [1, 2, 3]}, budget={"trials": 2}).points) == 2


def test_trials_are_scored_on_valid_rows():
    s = spec({"algorithm": ["fedavg", "flex"]})
    assert [(s.experiment(p).algorithm.name, s.experiment(p).evaluation.split) for p in s.points] == [
        ("fedavg", "valid"),
        ("flex", "valid"),
    ]


def test_what_was_asked_for_comes_back_from_its_file():
    s = spec({**RANGE, "seed": [0, 1]}, {"rounds": 3}, samples=4, stop={"name": "asha"})
    assert read(yaml.safe_load(yaml.safe_dump(s.dump()))) == s


def test_an_override_reaches_an_axis():
    values = {"sweep": {"over": {"train.lr": [0.001]}}}
    override(values, "sweep.over.train.lr=[0.01, 0.02]")
    assert read(values).axes["train.lr"].grid == (0.01, 0.02)


def test_combinations_that_are_refused_stop_the_sweep_or_are_left_out():
    with pytest.raises(ConfigError, match=r"sweep\.over\.algorithm\.graft\.start: expected copy with `gate\.mode: mix`"):
        spec(CLASH)
    s = spec(CLASH, refused="skip")
    assert [tuple(p.values()) for p in s.points] == [("add", "identity"), ("add", "copy"), ("mix", "copy")]
    assert [tuple(p.values()) for p in s.refused] == [("mix", "identity")]


def test_a_value_that_never_goes_is_refused_even_where_combinations_may_be_left_out():
    with pytest.raises(ConfigError, match=r"sweep\.over\.train\.lr: expected a number above 0, got -1"):
        spec({"train.lr": [0.001, -1], "rounds": [1, 2]}, refused="skip")


@pytest.mark.parametrize(
    ("over", "also", "sweep", "said"),
    [
        ({"trian.lr": [1.0]}, {}, {}, "sweep.over.trian.lr: expected a known key, got an unknown one; did you mean 'train'?"),
        ({"train.lrr": [1.0]}, {}, {}, "sweep.over.train.lrr: expected a known key, got an unknown one; did you mean 'train.lr'"),
        ({"algorithm": ["flux"]}, {}, {}, "sweep.over.algorithm.name: expected a known name"),
        ({"rounds": [1]}, {}, {"metric": "los"}, "sweep.metric: expected a number of evaluation.metrics, on valid rows, got 'los'; did"),
        ({"rounds": [1]}, {}, {"metrik": "loss"}, "sweep.metrik: expected a known key, got an unknown one; did"),
        ({"rounds": [1]}, {}, {"stop": {"name": "ahsa"}}, "sweep.stop.name: expected none, asha or median, got 'ahsa'; did"),
        ({"rounds": [1]}, {}, {"budget": {"minutes": 0}}, "sweep.budget.minutes: expected a number above 0"),
        ({"rounds": [1]}, {}, {"samples": 3}, "sweep.samples: expected none where all keys are grids"),
        ({"rounds": [1]}, {"evaluation": {"split": "test"}}, {}, "evaluation.split: expected valid, got 'test'"),
        ({"evaluation.split": ["valid"]}, {}, {}, "sweep.over.evaluation.split: expected no such key"),
        ({"seed": [0]}, {"seed": 1}, {}, "seed: expected none beside sweep.over.seed"),
        ({"rounds": [1]}, {"evaluation": {"every": None}}, {"stop": {"name": "asha"}}, "evaluation.every: expected a number of rounds"),
        ({"rounds": [1]}, {}, {"search": "optuna"}, "sweep.over.rounds: expected a choice or a range with `search: optuna`, got grid"),
        ({"seed": {"choice": [0]}, **RANGE}, {}, {"search": "optuna"}, "sweep.over.seed: expected a grid with `search: optuna`"),
        ({"rounds": [1]}, {"resources": {"address": 3}}, {}, "resources.address: expected text or nothing, got 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_key(over, also, sweep, said):
    with pytest.raises(ConfigError) as found:
        spec(over, also, **sweep)
    assert found.value.problems[0].startswith(said)


def test_without_a_section_there_is_nothing_to_sweep():
    with pytest.raises(ConfigError, match="sweep: expected a section"):
        read({"rounds": 1})


@pytest.mark.parametrize("file", sorted(Path("configs").glob("sweep_*.yaml")), ids=lambda f: f.stem)
def test_the_ready_configs_are_sweeps(file):
    assert load(file).most > 0


@pytest.mark.parametrize(
    ("over", "more", "said"),
    [
        (
            {"train.lr": {"uniform": [0.1, 0.2]}},
            {"samples": 10**15},
            "sweep.samples: expected at most 100,000 trials, got 1,000,000,",
        ),
        (
            {f"algorithm.k{i}": [*range(100)] for i in range(4)},
            {},
            "sweep.over: expected at most 100,000 trials, got 100,000,000; ",
        ),
        ({"train.lr": {"uniform": [0.1, 0.2]}, "seed": [*range(2)]}, {"samples": 60_000}, "got 120,000; ask for fewer"),
    ],
)
def test_more_trials_than_can_be_are_refused_before_one_is_made(over, more, said):
    with pytest.raises(ConfigError) as e:
        read({"sweep": {"over": over, **more}})
    assert said in str(e.value)
