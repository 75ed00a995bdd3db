"""Whose fault it is, whose turn it was, and that no turn lasts for ever."""

import subprocess
import sys

import numpy as np
import pytest

from flexray.errors import RunError
from flexray.sim.turns import NotFinite, Turns, check_finite, told, turn_of, where_late
from flexray.sim.wire import LeakError

NAMES = ["a", "b", "c"]


def test_errors_are_collected_and_numbers_that_are_none_are_somebodys():
    turns = Turns(NAMES, tells=True)
    turns.start()
    with turns.turn(0, (0, 2), None, leaf=4):
        raise ValueError("x\nmore")
    with turns.turn(0, (1, 2), None, leaf=5):
        check_finite(np.array([1.0, float("nan")]))
    with turns.turn(0, (0,), None):
        pass
    one, other = turns.end()
    assert (one.clients, one.leaf) == ((0, 2), 4) and one.why.startswith("ValueError: x (test_turns.py, line ")
    assert (other.clients, other.leaf) == ((2,), 5) and other.why.startswith("FloatingPointError: the training loss")


@pytest.mark.parametrize(("tells", "error"), [(True, LeakError("out")), (True, RunError("full")), (False, ValueError("x"))])
def test_what_is_not_theirs_alone_ends_the_run(tells, error):
    with (
        pytest.raises(RunError, match="full" if isinstance(error, RunError) else "round 3, client b: "),
        Turns(NAMES, tells).turn(3, (1,), None),
    ):
        raise error


def test_whose_turn_it_is_can_be_read_and_is_over_at_the_end(tmp_path):
    file = tmp_path / "0.0"
    turns = Turns(NAMES, True, file)
    with turns.turn(0, (0, 2), None):
        assert turn_of(file) == (0, 2)
    with turns.turn(0, (1,), None):
        assert turn_of(file) == (1,)
    turns.end()
    assert turn_of(file) == () and where_late(file) is None
    assert turn_of(tmp_path / "none") == ()


def test_a_turn_that_lasts_too_long_ends_the_process_which_says_where_it_was(tmp_path):
    """0.2 s for each of two, and a quarter more; the first turn is as long as both may be, and is well."""
    code = f"""
import time
from pathlib import Path
from flexray.sim.turns import Turns
turns = Turns(["a", "b"], True, Path({str(tmp_path / "0.0")!r}))
with turns.turn(0, (0, 1), 0.2):
    time.sleep(0.35)
def stuck():
    time.sleep(60)
with turns.turn(0, (1,), 0.2):
    stuck()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 1
    assert turn_of(tmp_path / "0.0") == (1,)
    assert "in stuck" in (where_late(tmp_path / "0.0") or "")


def test_an_error_without_words_is_named():
    assert told(KeyError()) == "KeyError"
    assert NotFinite([1]).seats == [1]
