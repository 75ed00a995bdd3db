"""A comparison as people and programs read it."""

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from flexray.comparison.table import Comparison, Method, Score, Versus
from flexray.metric import Number
from flexray.report import comparison as report
from flexray.report.papers import latex, lines, markdown


def score(mean: float, gain: float | None, p: float = 0.001, best: bool = False, level: bool = False) -> Score:
    versus = None if gain is None else Versus("fedavg", gain, gain - 0.1, gain + 0.1, p / 2, p, 3)
    gains = {"local": 0.25, **({} if gain is None else {"fedavg": gain})}
    return Score(mean, 0.0123, {0: mean}, gains, versus, None, best, level)


@pytest.fixture
def c() -> Comparison:
    def method(label: str, loss: Score, exact: Score) -> Method:
        return Method(label, "flex", (0, 1, 2), {"loss": loss, "exact_match": exact}, 98304.0, 98304.0, 24576, 0, 75.0)

    return Comparison(
        methods=(
            method("fedavg", score(1.5, None), score(0.5, None, best=True)),
            method("flex_5%", score(1.25, 0.25, 0.0004, best=True), score(0.4, -0.1, 0.02)),
            method("flex", score(1.3, 0.2, level=True), score(0.5, 0.0, 1.0, level=True)),
        ),
        numbers={"loss": Number("loss", less=True), "exact_match": Number("exact match %", scale=100, decimals=1)},
        reference="fedavg", baselines=("local", "fedavg"), view="personal", split="test", scored="before_steps",
        seeds=(0, 1, 2), clients=(4, 4, 4), rows={"loss": (40, 40, 44), "exact_match": (40, 40, 44)}, rounds=10,
        alpha=0.05, resamples=2000, over=("clients", "rows"), runs=9, finished=9, failures={},
    )  # fmt: skip


def shown(c: Comparison, width: int) -> list[str]:
    console = Console(width=width, record=True, quiet=False, file=io.StringIO())
    report.show(c, console)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_in_a_terminal(c):
    assert shown(c, 80)[:8] == [
        "loss (less is better)",
        "",
        "                             over    over            95 %",
        " method         mean ± sd   local  fedavg        interval       p",
        " ────────────────────────────────────────────────────────────────",
        "   fedavg   1.500 ± 0.012  +0.250       –               –       –",
        " ★ flex_5%  1.250 ± 0.012  +0.250  +0.250  [0.150, 0.350]  <0.001",
        " ≈ flex     1.300 ± 0.012  +0.250  +0.200  [0.100, 0.300]   0.001",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits(c, width):
    long = replace(
        c,
        methods=tuple(replace(m, label=f"{m.label}_with_a_long_name") for m in c.methods),
        reference="fedavg_with_a_long_name",
    )
    for made in (c, long):
        assert max(map(len, shown(made, width))) <= width
        assert not any("…" in line for line in shown(made, width) if "[" in line)


def test_how_every_number_was_made(c):
    told = " ".join(report.notes(c))
    for part in ("what each client serves with, on the test rows, after 10 rounds and before any local steps",
                 "4 clients (40–44 rows)", "3 seeds (0, 1, 2)", "2,000 resamples of clients and rows", "95 %", "Holm",
                 "Fewer than 10 clients"):  # fmt: skip
        assert part in told
    other = replace(c, over=("seeds", "clients", "rows"), clients=(12,), scored="after_steps", view="shared", split="valid",
                    rows={"loss": (40,), "exact_match": (9,)})  # fmt: skip
    told = " ".join(report.notes(other))
    for part in ("with private parts off, on the valid rows", "after a round's local steps", "of seeds, clients and rows",
                 "40 rows for loss; 9 rows for exact match"):  # fmt: skip
        assert part in told
    assert "Fewer than" not in told


def test_what_is_missing_is_told_everywhere(c):
    partial = replace(c, finished=7, failures={"flex-s2": "client-3: out of memory"})
    for text in ("\n".join(shown(partial, 80)), markdown(partial), latex(partial)):
        assert "Partial: 7 of 9 runs are finished." in text
        assert "flex-s2 failed: client-3: out of memory" in text


def test_without_a_reference_and_with_one_method_there_is_nothing_to_mark(c):
    alone = replace(c, methods=c.methods[:1], reference="flex")
    text = "\n".join(shown(alone, 80))
    assert "★" not in text
    assert "paired bootstrap" not in text


def test_markdown(c):
    text = markdown(c)
    assert "### loss (less is better)" in text
    assert "| method | mean ± sd | over local | over fedavg | 95 % interval | p |" in text
    assert "| flex_5% | **1.250 ± 0.012** ★ | +0.250 | +0.250 | [0.150, 0.350] | <0.001 |" in text
    assert "| flex | 1.300 ± 0.012 ≈ | +0.250 | +0.200 | [0.100, 0.300] | 0.001 |" in text
    assert "- Scores: what each client serves with" in text


def test_latex(c):
    text = latex(c)
    assert r"flex\_5\% & \textbf{1.250 $\pm$ 0.012} & 40.0 $\pm$ 1.2 & 98.3 KB & 98.3 KB \\" in text
    assert r"\underline{1.300 $\pm$ 0.012}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3
    assert text.count("{") == text.count("}")
    assert all(character.isascii() for character in text if character not in "·–")


def test_csv(c):
    rows = list(csv.DictReader(io.StringIO(lines(c))))
    assert len(rows) == 6
    flex = rows[2]
    assert (flex["method"], flex["number"], flex["better"], flex["best"]) == ("flex_5%", "loss", "less", "1")
    assert (float(flex["mean"]), float(flex["gain"]), float(flex["p_holm"])) == (1.25, 0.25, 0.0004)
    assert (flex["seeds"], flex["clients"], flex["rows"], flex["split"], flex["scored"]) == (
        "0 1 2", "4 4 4", "40 40 44", "test", "before_steps",
    )  # fmt: skip
    assert rows[0]["gain"] == ""
