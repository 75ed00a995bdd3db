"""What one swept key takes: lists, draws, and how wrong ones are refused."""

import pytest

from flexray.errors import ConfigError
from flexray.sweeping.axis import Axis, read


def test_a_list_is_a_grid_and_sections_are_dotted_keys():
    axes = read({"train": {"lr": [0.1, 0.2], "steps": {"randint": [1, 5]}}, "seed": {"grid": [0]}})
    assert {key: axis.kind for key, axis in axes.items()} == {"train.lr": "grid", "train.steps": "randint", "seed": "grid"}


def test_a_later_key_holds_as_set_lays_it_over():
    assert read({"train.lr": [0.1], "train": {"lr": [0.5]}})["train.lr"].grid == (0.5,)


def test_draws_stay_in_their_range_and_do_not_depend_on_others():
    axis = Axis(randint=(2, 5))
    drawn = [axis.draw("train.steps", 0, n) for n in range(200)]
    assert set(drawn) == {2, 3, 4}  # the higher end is left out
    assert drawn[:5] == [axis.draw("train.steps", 0, n) for n in range(5)]
    assert drawn != [axis.draw("train.batch", 0, n) for n in range(200)]
    assert drawn != [axis.draw("train.steps", 1, n) for n in range(200)]


def test_a_logarithmic_range_has_as_many_draws_in_every_decade():
    axis = Axis(loguniform=(1e-4, 1e-2))
    drawn = [axis.draw("train.lr", 0, n) for n in range(1000)]
    assert all(1e-4 <= v <= 1e-2 for v in drawn)
    assert 440 < sum(v < 1e-3 for v in drawn) < 560  # half of them: 1e-3 is the middle of two decades; ± 4 sd of 16


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({}, "sweep.over: expected dotted keys"),
        ({"a": 5}, "sweep.over.a: expected a list, or one of grid, choice"),
        ({"a": {"grdi": [1]}}, "sweep.over.a.grdi: expected a known key, got an unknown one; did you mean 'grid'?"),
        ({"a": {"grid": [1], "choice": [2]}}, "sweep.over.a: expected exactly one of grid"),
        ({"a": {"uniform": [2, 1]}}, "sweep.over.a.uniform: expected two numbers, the lower one first, got [2.0, 1.0]"),
        ({"a": {"loguniform": [0, 1]}}, "sweep.over.a.loguniform: expected numbers above 0"),
        ({"a": {"randint": [1, "x"]}}, "sweep.over.a.randint.1: expected a whole number, got 'x'"),
        ({"a": [1, 1]}, "sweep.over.a.grid: expected each value once, got [1, 1]"),
        ({"a": []}, "sweep.over.a.grid: expected at least one value"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(over, said):
    with pytest.raises(ConfigError) as found:
        read(over)
    assert found.value.problems[0].startswith(said)
