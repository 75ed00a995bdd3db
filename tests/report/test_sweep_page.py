"""The report of a sweep: its numbers are those of its trials, worked out by hand, and the page says what is missing."""

import json
from math import log10

import pytest

from flexray.report import drawing, following, sweep_figures, sweep_page
from flexray.report.sweep_figures import Swept
from flexray.sweeping.results import load_sweep
from tests.report.folders import sweep
from tests.report.test_page import Page

OVER = {"train.lr": [0.001, 0.01], "algorithm.lora.rank": [2, 4], "seed": [0, 1]}


def loss(point):
    """By lr 1 or 2, by rank 0 or 0.2, by both together 0.1 more in one cell, by the seed 0 or 0.02."""
    both = 0.1 if point["train.lr"] == 0.01 and point["algorithm.lora.rank"] == 4 else 0.0
    return (1.0 if point["train.lr"] == 0.001 else 2.0) + 0.1 * (point["algorithm.lora.rank"] - 2) + both + 0.02 * point["seed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("sweeps") / "lr", OVER, loss, failed=[7])


@pytest.fixture(scope="module")
def swept(folder):
    return Swept(load_sweep(folder))


def numbers(panels):
    with drawing.style():
        return [panel.numbers for panel in panels]


def test_the_best_settings_with_their_spread_over_seeds(swept):
    """lr 0.001, rank 2: 1.00 and 1.02: mean 1.01, sd of the sample 0.02/√2 = 0.01414; of the last setting one seed failed."""
    (found,) = numbers(sweep_figures.best(swept))
    assert found.columns == ("rank", "setting", "mean", "sd", "seeds")
    assert found.rows[0] == (1, "lr=0.001 rank=2", pytest.approx(1.01), pytest.approx(0.014142, abs=1e-6), 2)
    assert found.rows[-1] == (4, "lr=0.01 rank=4", pytest.approx(2.3), 0.0, 1)


def test_what_each_key_does(swept):
    """Means of settings: 1.01, 1.21, 2.01, 2.30. lr 0.001: (1.01 + 1.21)/2 = 1.11; lr 0.01: (2.01 + 2.30)/2 = 2.155."""
    lr, rank = numbers(sweep_figures.effects(swept))
    assert lr.columns == ("train.lr", "mean", "sd", "settings")
    assert [row[:2] for row in lr.rows] == [("0.001", pytest.approx(1.11)), ("0.01", pytest.approx(2.155))]
    assert [row[:2] for row in rank.rows] == [("2", pytest.approx(1.51)), ("4", pytest.approx(1.755))]


def test_what_two_keys_do_together(swept):
    (cells,) = numbers(sweep_figures.interactions(swept))
    assert dict(((a, b), value) for a, b, value in cells.rows) == {
        ("0.001", "2"): pytest.approx(1.01), ("0.001", "4"): pytest.approx(1.21),
        ("0.01", "2"): pytest.approx(2.01), ("0.01", "4"): pytest.approx(2.3),
    }  # fmt: skip


def test_the_best_so_far_never_gets_worse(swept):
    (found,) = numbers(sweep_figures.course(swept))
    assert [row[2] for row in found.rows] == [pytest.approx(1.0)] * 7  # the first trial is the best
    assert [row[0] for row in found.rows] == list(range(7))


def test_all_settings_are_lines_over_the_keys_that_do_most(swept):
    (found,) = numbers(sweep_figures.parallel(swept))
    assert found.columns == ("train.lr", "algorithm.lora.rank", "loss (nats per token)")
    assert len(found.rows) == 4


def test_scales_of_parallel_coordinates():
    """1e-4 … 1 spans four tenfolds: 1e-2 is in the middle; 0 … 8 is in proportion; few values, and words, stand in equal steps."""
    wide = sweep_figures._scale([10.0**-k for k in (0, 1, 2, 2.5, 3, 4)])
    assert wide.at(1e-2) == pytest.approx(0.5) and wide.at(1.0) == 1 and wide.at(1e-4) == 0
    assert [label for _, label in wide.ticks] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert sweep_figures._scale([0, 1, 2, 3, 4, 8]).at(2) == 0.25
    assert sweep_figures._scale([1, 100, 10000]).at(100) == 0.5
    assert sweep_figures._scale(["b", "a", "c"]).at("c") == 1
    assert log10(100) == 2


def test_the_page_is_whole_and_says_what_failed(folder, tmp_path):
    page, told, over = following.made([folder], tmp_path / "out")
    text = page.read_text()
    found = Page(text)
    assert set(found.pointed) <= set(found.ids) and len(found.ids) == len(set(found.ids))
    assert all(link.startswith("data:") for link in found.fetched)
    assert (told, over) == ("trials 7 finished · 1 failed", True)
    assert "round 1, client b: it broke" in text and "not finished" not in text
    drawn = {f.stem for f in (tmp_path / "out").glob("*.svg")}
    assert drawn == {"settings-settings", "all-parallel", "effects-key-0", "effects-key-1", "together-pair-0", "course-course"}
    assert text.count('role="img"') == len(drawn) == len(list((tmp_path / "out").glob("*.png")))


def test_a_sweep_that_goes_on_is_shown_as_far_as_it_is(tmp_path):
    folder = sweep(tmp_path / "on", OVER, loss, begun=3)
    page, made = sweep_page.write(folder, tmp_path / "out", refresh=10)
    assert "not finished: 5 trials more to come" in page.read_text() and 'content="10"' in page.read_text()
    assert made.left == 5
    none = sweep(tmp_path / "none", OVER, loss, begun=0)
    assert "not finished: 8 trials" in sweep_page.write(none, tmp_path / "out2")[0].read_text()


def test_the_report_of_a_sweep_by_its_command(folder, tmp_path):
    from typer.testing import CliRunner

    from flexray.cli import app

    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["page"] == str(tmp_path / "out" / "index.html") and "all-parallel.svg" in told["figures"]
