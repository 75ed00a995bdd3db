"""Problems are told once, and on one screen."""

from flexray.sweeping.checks import SCREEN, once


def test_a_problem_of_every_trial_is_told_once_without_values():
    assert once(["a: wrong (with b 1)", "a: wrong (with b 2)"], 2) == ["a: wrong"]


def test_a_problem_of_some_trials_names_the_first_of_them():
    assert once(["a: wrong (with b 1)", "a: wrong (with b 2)", "a: wrong (with b 1)"], 9) == [
        "a: wrong (with b 1, and 1 more such)"
    ]
    assert once(["a: wrong (with b 1)"], 9) == ["a: wrong (with b 1)"]
    assert once(["a: wrong", "a: wrong"], 9) == ["a: wrong"]


def test_no_more_than_a_screen():
    told = once([f"a{i}: wrong" for i in range(SCREEN + 30)], 99)
    assert told[-1] == "and 30 more"
    assert len(told) == SCREEN + 1
