"""The final table, from hand-made scores."""

from dataclasses import asdict

import pytest
from rich.console import Console

from flexray.metric import Number
from flexray.report import scores

METRICS = {
    "loss": asdict(Number("loss", less=True)),
    "perplexity": asdict(Number("perplexity", less=True, shown=False)),
    "exact_match": asdict(Number("exact match %", scale=100, decimals=1)),
}


def scored(base: float, shared: float, personal: float) -> dict:
    """Losses, with an exact match of a tenth of what is missing to 5."""
    views = {"base": base, "shared": shared, "personal": personal}
    return {view: {"loss": v, "exact_match": (5 - v) / 10, "perplexity": 1.0} for view, v in views.items()}


def finished(clients: int = 2, **changes) -> dict:
    each = [{"client": f"client-{i}", **scored(4.0, 3.0, 2.0 + i / 10)} for i in range(clients)]
    summary = {
        "evaluation": {"split": "test", "when": "before_steps"},
        "metrics": METRICS,
        "clients": each,
        "mean": scored(4.0, 3.0, 2.05),
        "weighted_mean": scored(4.1, 3.1, 2.15),
        "worst_tenth": scored(4.0, 3.0, 2.1),
        "sd": scored(0.0, 0.0, 0.07),
        "jain": scored(1.0, 1.0, 0.998),
        "bytes": {"up": 1_570_000, "down": 2_000},
        "flops_per_token": {"frozen": 4_000_000, "added": 500_000},
        "inside": {"entropy": 1.234, "drift": 0.00123, "gate.expert": 0.5, "share.expert": 0.25},
        "seconds": {"training": 3.0, "communication": 0.04, "waiting": 65.2, "evaluation": 3.3, "rounds": 68.2},
        "tokens_per_second": 5340.0,
        "actors": 4,
        "seats": 1,
    }
    return summary | changes


def printed(summary: dict, width: int) -> list[str]:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as got:
        console.print(scores.summary(summary, console), highlight=False)
    return [line.rstrip() for line in got.get().splitlines()]


def cells(line: str) -> list[str]:
    return line.split()


def test_narrow_there_is_a_table_for_each_metric():
    lines = printed(finished(), 80)
    assert [cells(line) for line in lines if line.startswith((" client-", " mean"))] == [
        ["client-0", "4.000", "3.000", "2.000", "+2.000", "+1.000"],
        ["client-1", "4.000", "3.000", "2.100", "+1.900", "+0.900"],
        ["mean", "4.000", "3.000", "2.050", "+1.950", "+0.950"],
        ["client-0", "10.0", "20.0", "30.0", "+20.0", "+10.0"],
        ["client-1", "10.0", "20.0", "29.0", "+19.0", "+9.0"],
        ["mean", "10.0", "20.0", "29.5", "+19.5", "+9.5"],
    ]
    assert "loss" in lines and "exact match %" in lines
    assert max(map(len, lines)) <= 80


def test_wide_there_is_one():
    lines = printed(finished(), 120)
    assert [cells(line) for line in lines if line.startswith(" mean")] == [
        ["mean", "4.000", "3.000", "2.050", "+1.950", "+0.950", "10.0", "20.0", "29.5", "+19.5", "+9.5"]
    ]
    assert max(map(len, lines)) <= 120


def test_below_the_clients_what_they_come_to():
    lines = printed(finished(), 80)
    ends = [line for line in lines if line.startswith((" all rows", " worst tenth", " sd", " Jain"))]
    assert [cells(line) for line in ends[:4]] == [
        ["all", "rows", "4.100", "3.100", "2.150", "+1.950", "+0.950"],
        ["worst", "tenth", "4.000", "3.000", "2.100", "+1.900", "+0.900"],
        ["sd", "0.000", "0.000", "0.070"],
        ["Jain", "index", "1.000", "1.000", "0.998"],
    ]
    assert cells(ends[6]) == ["sd", "50.0", "50.0", "49.3"]  # in the unit of what is above it; the index in none
    assert cells(ends[7]) == ["Jain", "index", "0.400", "0.400", "0.400"]
    assert not [line for line in printed(finished(1), 80) if line.startswith((" mean", " sd"))]  # one client is all


def test_which_rows_were_scored_and_when_is_said():
    text = " ".join(printed(finished(), 120))
    assert "All on test rows, before a round's local steps" in text
    text = " ".join(printed(finished(evaluation={"split": "valid", "when": "after_steps"}), 120))
    assert "All on valid rows, the personalised model after a round's local steps, the others before them" in text


def test_below_it_what_the_views_are_bytes_time_and_speed():
    lines = printed(finished(), 120)
    text = " ".join(lines)
    for view in ("frozen base: as pretrained", "shared only: private parts off", "personalised: what the client serves with"):
        assert view in text
    assert lines[-4:] == [
        "bytes   1.57 MB up · 2.00 KB down",
        "inside  entropy 1.23 · drift 1.2e-03 · gate 0.50 · private 25% · +12.5% FLOPs",
        "time    training 3.0 s · communication 0.0 s · waiting 1 min 05 s · evaluation 3.3 s",
        "speed   5.34 k tokens/s · 4 actors × 1 seat · 1 min 12 s in all",
    ]


def test_of_many_clients_those_that_gained_least_and_most_are_shown():
    lines = printed(finished(30), 80)
    shown = [cells(line)[0] for line in lines if line.startswith((" client-", " …"))]
    least, most = [f"client-{i}" for i in range(29, 24, -1)], [f"client-{i}" for i in range(4, -1, -1)]
    assert shown == [*least, "…", *most] * 2
    assert "The 5 that gained least and most of 30; clients.parquet has all." in lines
    assert len([line for line in printed(finished(20), 80) if line.startswith(" client-")]) == 40


def test_a_gain_is_green_a_loss_red_and_nothing_plain():
    def style(personal: float) -> tuple[str, str]:
        how = Number("loss", less=True)
        text = scores._gain(scores.gain(scored(4.0, 3.0, personal), "loss", "base", how), how.decimals)
        return text.plain, str(text.style)

    assert (style(3.0), style(4.5), style(4.0001)) == (("+1.000", "green"), ("-0.500", "red"), ("0.000", ""))


@pytest.mark.parametrize("kept", ["loss", "exact_match", "perplexity"])
def test_only_metrics_that_were_scored_and_are_for_tables_are_shown(kept):
    lines = printed(finished(metrics={kept: METRICS[kept]}), 80)
    assert len([line for line in lines if line.startswith(" mean")]) == (kept != "perplexity")


def test_a_long_name_does_not_break_the_table():
    s = finished()
    s["clients"][0]["client"] = "information_extraction_from_[bold]everywhere"
    lines = printed(s, 80)
    assert max(map(len, lines)) <= 80
    assert any("information_extraction" in line and "…" in line for line in lines)


def test_what_differential_privacy_promises_is_one_line():
    dp = {
        "where": "central",
        "epsilon": 2.306,
        "delta": 1e-5,
        "neighbours": "a client is added or removed",
        "accountant": "rdp",
    }
    said = "ε 2.31 at δ 1e-05 against whoever sees the model (a client is added or removed; RDP)"
    assert any(said in line for line in printed(finished(privacy={"dp": dp}), 140))
    assert scores.protected(dp | {"where": "local", "epsilon": None}).startswith("ε ∞ at δ 1e-05 against the server too")
    assert not any("privacy" in line for line in printed(finished(), 140))


def test_the_simulated_clock_in_the_end():
    told = {"seconds": 90.0, "selected": 30, "counted": 20, "dropped": 4, "late": 6, "discarded": 0, "bytes_wasted": 2_000}
    told |= {"void_rounds": 1, "staleness": 0.0, "staleness_most": 0}
    assert (
        scores.clock(told)
        == "1 min 30 s simulated · 20 of 30 turns counted · 4 dropped · 6 late · 2.00 KB in vain · 1 round void"
    )
    lost = dict.fromkeys(("dropped", "late", "bytes_wasted", "void_rounds"), 0)
    late = told | lost | {"staleness": 1.25, "staleness_most": 4}
    assert scores.clock(late) == "1 min 30 s simulated · 20 of 30 turns counted · 1.2 rounds late in the mean, 4 at most"
