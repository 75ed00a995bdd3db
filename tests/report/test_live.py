"""What is said while a run goes on, from hand-made events."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from flexray.metric import Number
from flexray.report import live
from flexray.sim.events import Evaluated, Finished, Progress, RoundDone, Started
from flexray.sim.reports import ClientReport, Reports
from flexray.sim.round import RoundReport
from flexray.sim.system.turns import COUNTED, LATE, RoundCourse, Turns


def report(round: int) -> RoundReport:
    clients = Reports.of([ClientReport(i, 2.5, 10, 3000, 12, {"lora": 100}, {"lora": 100}) for i in range(2)])
    return RoundReport(round, clients, 1.2, 1.0, 0.1)


def events(plan, rounds: int = 12) -> list:
    """A whole run's: scored before every fifth round, two slices a round."""
    found = [plan, Started(0, 6.94)]
    numbers = {"loss": Number("loss"), "exact_match": Number("exact match %", less=False, scale=100, decimals=1)}
    means = {"base": {"loss": 9.341, "exact_match": 0.0}, "shared": {"loss": 4.566, "exact_match": 0.0125}}
    for round in range(rounds):
        if round % 5 == 0:
            found.append(Evaluated(round, 2, means, 1.0, "test", numbers))
        found += [Progress(round, 1, 2, 2.5, 3000), Progress(round, 1, 2, 2.4, 3000), RoundDone(report(round))]
    return [*found, Evaluated(rounds, 2, {"personal": {"loss": 1.0}}, 1.0, "valid", {"loss": Number("loss")}), Finished({})]


def shown(events: list, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=terminal, color_system=None, legacy_windows=False)
    with live.watching(console) as watch:
        for event in events:
            watch(event)
    return text.getvalue()


def test_without_a_terminal_there_are_plain_lines_and_no_bars(plan):
    text = shown(events(plan()), terminal=False)
    assert "\x1b" not in text and "━" not in text
    lines = text.partition("\n\n")[2].splitlines()  # behind the plan
    assert lines[:4] == [
        "actors up in 6.9 s",
        "  test loss               base 9.341 · shared 4.566",
        "  test exact match %      base 0.0 · shared 1.2",
        "round  1/12   train loss 2.500    5.00 k tokens/s     1.2 s",
    ]
    assert lines[-2:] == [
        "round 12/12   train loss 2.500    5.00 k tokens/s     1.2 s",
        "  valid loss               personal 1.000",
    ]


def test_at_most_three_lines_a_round(plan):
    lines = shown(events(plan()), terminal=False).partition("\n\n")[2].splitlines()[1:]
    rounds = [i for i, line in enumerate(lines) if line.startswith("round")]
    assert len(rounds) == 12
    assert max(b - a for a, b in zip([-1, *rounds], [*rounds, len(lines) - 1], strict=False)) <= 3
    assert max(map(len, lines)) <= 80


def test_in_a_terminal_bars_over_rounds_and_clients_with_loss_and_speed(plan):
    text = shown(events(plan(), 2), terminal=True)
    for part in ("rounds", "clients", "tokens/s", "2/12", "loss 2.400", "━"):
        assert part in text


def test_the_bars_follow_the_run(plan):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with live.watching(console) as watch:
        rounds, clients = watch.bars.tasks
        for event in events(plan(), 1)[:3]:
            watch(event)
        assert (rounds.total, rounds.completed, clients.description, clients.total) == (12, 0, "scoring", None)
        watch(Progress(0, 1, 2, 2.5, 3000))
        assert (clients.description, clients.completed, clients.total) == ("clients", 1, 2)
        assert clients.fields["info"].endswith("tokens/s") and rounds.fields["info"] == "loss 2.500"
        watch(RoundDone(report(0)))
        assert (rounds.completed, clients.description) == (1, "clients")
        for round in range(1, 5):
            watch(RoundDone(report(round)))
        assert (rounds.completed, clients.description) == (5, "scoring")


def test_a_resumed_run_says_where_it_goes_on(plan):
    text = shown([plan(), Started(7, 2.0)], terminal=False)
    assert text.endswith("actors up in 2.0 s, going on at round 8\n")
    text = shown([plan(), Started(12, 2.0)], terminal=False)
    assert text.endswith("actors up in 2.0 s, going on with the last evaluation\n")


def test_actors_that_died_as_they_started_are_told(plan):
    text = shown([plan(), Started(0, 2.0, replaced=1)], terminal=False)
    assert text.endswith("actors up in 2.0 s, 1 of them replaced, as they died in starting\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_that_breaks_leaves_the_terminal_as_it_was(plan, terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80)
    with pytest.raises(KeyboardInterrupt), live.watching(console) as watch:
        watch(plan())
        raise KeyboardInterrupt
    assert text.getvalue().count("\x1b[?25l") == text.getvalue().count("\x1b[?25h")


def test_a_private_round_tells_what_was_spent(plan):
    done = RoundDone(replace(report(0), privacy={"epsilon": 2.306, "clip": 1.0}))
    said = shown([plan, Started(0, 1.0), done], terminal=False)
    assert any(line.endswith("ε 2.31") for line in said.splitlines() if "round" in line)


def test_a_simulated_clock_is_told_and_a_round_that_was_void(plan):
    turns = Turns(np.arange(3), np.array([COUNTED, COUNTED, LATE]), np.zeros(3), np.ones(3), np.zeros(3, int))
    course, nobody = RoundCourse(0, 0.0, 90.0, 90.0, turns), Reports.of([])
    told = [
        plan(), Started(0, 1.0), RoundDone(replace(report(0), course=course)),
        RoundDone(replace(report(1), clients=nobody, course=replace(course, turns=replace(turns, status=np.full(3, LATE))))),
    ]  # fmt: skip
    lines = [" ".join(line.split()) for line in shown(told, terminal=False).splitlines()]
    assert "round 1/12 train loss 2.500 5.00 k tokens/s 1.2 s simulated 1 min 30 s, 2 of 3 counted" in lines
    assert "round 2/12 void: no change 0 tokens/s 1.2 s simulated 1 min 30 s, 0 of 3 counted" in lines
