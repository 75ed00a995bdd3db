"""The table of a sweep that runs: compact, whatever the terminal's width."""

from io import StringIO

import pytest
from rich.console import Console

from flexray.report.sweep_table import Watcher
from flexray.sweeping.events import Begun, Ended, Planned, Rounds
from flexray.sweeping.spec import read

POINT = {"train.lr": 0.1, "algorithm.lora.targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "seed": 0}


@pytest.fixture
def watcher():
    spec = read({"sweep": {"over": {"rounds": [1, 2]}}})
    return Watcher(spec, Console(file=StringIO(), width=200))


def shown(watcher, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(watcher.table())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_while_it_plans(watcher):
    assert shown(watcher, 80) == ["sweep  planning"]
    watcher(Planned(3, 28))
    assert shown(watcher, 80) == ["sweep  planning · 3 of 28 trials"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_line_for_best_one_for_all_and_one_for_each_that_runs(watcher, width):
    watcher(Begun(20, 2, 10))
    watcher(Rounds(0, POINT, 1, 4))
    watcher(Ended(0, POINT, "finished", 1.5))
    watcher(Ended(1, POINT, "failed", None, "why"))
    for number in range(2, 12):
        watcher(Rounds(number, POINT, number - 2, 10))
    lines = shown(watcher, width)
    assert len(lines) == 2 + 8 + 1
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("best   000  lr=0.1")
    assert lines[1].startswith("sweep  10 running · 4 of 20 done")
    if width == 120:
        assert "1 failed · about" in lines[1]
        assert lines[2].split()[-1] == "starting"
        assert lines[3].endswith("round 1 of 10")
    assert "and 2 more" in lines[-1]
