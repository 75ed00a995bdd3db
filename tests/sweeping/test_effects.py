"""Best settings, main effects and interactions, by hand-computed numbers."""

from math import sqrt

import pytest

from flexray.sweeping.effects import effects, interactions, settings

CROSSED = [  # a: 1 or 2, b: x or y; values 1, 2, 3, 6 (the last is 2 more than the sum of both effects)
    (0, {"a": 1, "b": "x"}, 1.0),
    (1, {"a": 1, "b": "y"}, 2.0),
    (2, {"a": 2, "b": "x"}, 3.0),
    (3, {"a": 2, "b": "y"}, 6.0),
]


def test_trials_that_differ_in_their_seed_are_one_setting():
    trials = [(0, {"lr": 0.1, "seed": 0}, 2.0), (1, {"lr": 0.1, "seed": 1}, 4.0), (2, {"lr": 0.2, "seed": 0}, 5.0)]
    best, other = settings(trials, less=True)
    assert (best.point, best.trials, best.mean) == ({"lr": 0.1}, (0, 1), 3.0)
    assert best.sd == pytest.approx(sqrt(2))  # of 2 and 4: √((1 + 1)/1)
    assert (other.mean, other.sd) == (5.0, None)
    assert settings(trials, less=False)[0].mean == 5.0


def test_main_effects_are_means_by_level_and_their_share_of_the_variance():
    # mean 3, Σ(x − 3)² = 4 + 1 + 0 + 9 = 14; a: 1.5 and 4.5, 2·1.5² + 2·1.5² = 9; b: 2 and 4, 2 + 2 = 4.
    a, b = effects(settings(CROSSED, less=True))
    assert (a.key, a.share) == ("a", pytest.approx(9 / 14))
    assert [(level.label, level.mean, level.settings) for level in a.levels] == [("1", 1.5, 2), ("2", 4.5, 2)]
    assert a.levels[0].sd == pytest.approx(sqrt(0.5))  # of 1 and 2
    assert (b.key, b.share) == ("b", pytest.approx(4 / 14))


def test_interactions_are_what_is_left_beyond_the_sum():
    # cell − row − column + mean = ±0.5 in every cell: 1 − 1.5 − 2 + 3 = 0.5; 4·0.25 = 1, and 9 + 4 + 1 = 14.
    (found,) = interactions(settings(CROSSED, less=True))
    assert (found.keys, found.share) == (("a", "b"), pytest.approx(1 / 14))


def test_pairs_whose_levels_did_not_all_meet_are_not_told():
    assert interactions(settings(CROSSED[:3], less=True)) == []


def test_a_key_with_many_numbers_is_told_by_thirds():
    drawn = [(i, {"lr": float(i)}, float(i)) for i in range(9)]
    (effect,) = effects(settings(drawn, less=True))
    assert [(level.label, level.mean) for level in effect.levels] == [("0 to 2", 1.0), ("3 to 5", 4.0), ("6 to 8", 7.0)]


def test_one_level_has_no_effect():
    assert effects(settings(CROSSED[:1], less=True)) == []
