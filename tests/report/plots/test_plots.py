"""What the figures show are the numbers of the tables, reckoned by hand; see folders.py for what is in them."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from flexray import folder
from flexray.report import drawing
from flexray.report.plots.clock import Clock
from flexray.report.plots.grafts import Grafts
from flexray.report.plots.holdings import Holdings, counted
from flexray.report.plots.load import Load
from flexray.report.plots.privacy import Privacy
from flexray.report.plots.rivals import Rivals
from flexray.report.plots.routing import Routing
from flexray.report.plots.scores import Scores
from flexray.report.plots.time import Time, binned
from flexray.report.plots.traffic import Traffic, pareto
from flexray.report.plots.training import Training
from flexray.report.reading import read
from tests.report.folders import make


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two clients, four rounds: `flex` gains 1 by the end and `fedavg` 0.5."""
    path = tmp_path_factory.mktemp("runs")
    return read([make(path / "a", rounds=4, better=1.0), make(path / "b", method="fedavg", rounds=4, better=0.5)])


def panels(plot, runs):
    with drawing.style():
        return {panel.name: panel for panel in plot.panels(runs)}


def lines(panel):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in panel.figure.axes[0].lines}


def test_scores_over_rounds_are_means_over_clients(two):
    shown = panels(Scores(), two)
    assert list(shown) == ["loss", "exact_match"]  # perplexity is not shown in tables
    drawn = lines(shown["loss"])
    # base (2 + 2.5) / 2 = 2.25; personal: 1 · round / 4 less
    assert drawn["flex"] == [(0, 2.25), (1, 2.0), (2, 1.75), (3, 1.5), (4, 1.25)]
    assert drawn["fedavg"][-1] == (4, 1.75)
    assert set(np.ravel(panels(Scores(), two)["loss"].figure.axes[0].lines[0].get_ydata())) == {2.25}
    row = shown["loss"].numbers.rows[4]
    # the 10th percentile of 1 and 1.5 is 1 + 0.1 · 0.5
    assert row == ("flex", "personal", 4, 2, 1.25, pytest.approx(1.05), pytest.approx(1.45))
    match = lines(shown["exact_match"])["flex"][-1][1]
    assert match == pytest.approx(100 * (1 / 2 + 1 / 2.5) / 2)  # 1 / (1 + loss), in percent


def test_one_run_shows_its_views(two):
    drawn = lines(panels(Scores(), two[:1])["loss"])
    assert set(drawn) == {"frozen base", "shared only", "personalised"}
    assert drawn["shared only"][-1] == (4, 1.75)  # half of what is gained


def test_train_loss(two):
    drawn = lines(panels(Training(), two)["loss"])
    assert drawn["flex"] == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]


def test_what_privacy_has_cost(two):
    """ε of 1, 2, … and a clip of a half; of a run that only clips ε is ∞."""
    assert not panels(Privacy(), two), "runs without it have no such figure"
    spent, clips = (
        replace(run, rounds=[r | {"epsilon": e(r["round"] + 1.0), "clip": 0.5} for r in run.rounds])
        for run, e in zip(two, (float, lambda _: math.inf), strict=True)
    )
    shown = panels(Privacy(), [spent, clips])["epsilon"]
    assert lines(shown) == {"flex": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)], "fedavg": []}
    assert shown.numbers.rows[3:5] == (("flex", 4, 4.0, 0.5), ("fedavg", 1, "∞", 0.5))
    assert shown.says == "flex: ε 4.0 after 4 rounds; fedavg: ε ∞ after 4 rounds"


def test_dumbbells_join_each_clients_views(two):
    from flexray.report.plots.clients import Clients

    shown = panels(Clients(), two)
    assert list(shown) == ["1-loss", "2-loss", "1-exact_match", "2-exact_match"]
    assert shown["1-loss"].numbers.rows == (("client-0", 2.0, 1.5, 1.0), ("client-1", 2.5, 2.0, 1.5))
    dots = [list(dots.get_offsets()[:, 0]) for dots in shown["1-loss"].figure.axes[0].collections[1:]]
    assert dots == [[2.0, 2.5], [1.5, 2.0], [1.0, 1.5]]
    assert "2 of 2 clients are better" in shown["1-loss"].says
    assert shown["1-loss"].figure.axes[0].get_xlim() == shown["2-loss"].figure.axes[0].get_xlim()


def test_gain_over_rivals_is_turned_so_that_more_is_better(two):
    assert panels(Rivals(), two)["loss"].numbers.rows == (("fedavg", "client-0", 0.5), ("fedavg", "client-1", 0.5))
    gained = panels(Rivals(), two)["exact_match"].numbers.rows[0][2]
    assert gained == pytest.approx(100 * (1 / 2 - 1 / 2.5))
    assert panels(Rivals(), two[:1]) == {}


def test_who_holds_which_data(two):
    shown = panels(Holdings(), two)
    assert list(shown) == ["1"]  # both runs were dealt the same
    assert shown["1"].numbers.columns == ("client", "label 0", "label 1", "label 2")
    assert shown["1"].numbers.rows == (("client-0", 15, 10, 10), ("client-1", 10, 15, 10))
    np.testing.assert_array_equal(shown["1"].figure.axes[0].images[0].get_array(), [[15, 10, 10], [10, 15, 10]])


def test_rare_labels_share_a_column_and_no_labels_show_splits():
    many = [{"client": "a", "train": 9, "valid": 1, "test": 2, "labels": {f"{k:02}": k + 1 for k in range(42)}}]
    names, cells = counted(many)
    assert names[:2] == ["41", "40"] and names[-1] == "others" and len(names) == 40
    assert cells[0][-1] == 1 + 2 + 3  # the 39 commonest have a column
    assert counted([many[0] | {"labels": {}}]) == (["train", "valid", "test"], [[9, 1, 2]])


def test_grafted_experts_are_counted_by_layer(two):
    shown = panels(Grafts(), two[:1])["1"]
    # client i grafted expert i + layer
    np.testing.assert_array_equal(shown.figure.axes[0].images[0].get_array(), [[1, 1, 0, 0], [0, 1, 1, 0]])
    assert shown.numbers.rows == (("client-0", "0", "1"), ("client-1", "1", "2"))


def test_load_is_relative_to_the_even_share(two):
    shown = panels(Load(), two[:1])
    # loads 1, 1/3, 1/3, 1/3: the even share is 1/2; over two clients (2 + 2/3) / 2 = 4/3
    assert shown["map-1"].numbers.rows[0] == (0, *map(pytest.approx, (4 / 3, 4 / 3, 2 / 3, 2 / 3)))
    assert lines(shown["busiest"])["flex"] == [(r, pytest.approx(2.0)) for r in range(5)]


def test_routing_means_over_blocks_and_clients(two):
    shown = panels(Routing(), two[:1])
    assert list(shown) == ["drift", "entropy", "gate", "share"]
    # 0.1 · round · layer over layers 0 and 1
    assert lines(shown["drift"])["flex"] == [(r, pytest.approx(0.05 * r)) for r in range(5)]
    assert lines(shown["gate"])["flex"][-1] == (4, pytest.approx(0.54))
    assert lines(shown["share"])["flex"][-1] == (4, pytest.approx(25.0))


def test_bytes_so_far_against_the_score(two):
    rows = panels(Traffic(), two)["loss"].numbers.rows
    # 2 clients · 3000 bytes a round
    assert [row[1:3] for row in rows if row[0] == "flex"] == [(0, 2.25), (6000, 2), (12000, 1.75), (18000, 1.5), (24000, 1.25)]
    assert [row[3] for row in rows if row[0] == "fedavg"] == ["yes", "", "", "", ""]  # at 0 bytes both are the base


def test_the_front_has_what_nothing_beats():
    points = [(1.0, 5.0), (2.0, 6.0), (2.0, 4.0), (3.0, 4.0), (4.0, 1.0)]
    assert pareto(points, less=True) == [(1.0, 5.0), (2.0, 4.0), (4.0, 1.0)]
    assert pareto(points, less=False) == [(1.0, 5.0), (2.0, 6.0)]


def test_time_by_cause(two):
    shown = panels(Time(), two[:1])["1"]
    # a second of training, a tenth of exchange; half a second of scoring before each round and at the end
    assert shown.numbers.rows == (*((r, 1.0, 0.1, 0.0, 0.5) for r in (1, 2, 3, 4)), (5, 0.0, 0.0, 0.0, 0.5))
    assert shown.title == "6.9 s in all"
    assert max(bar.get_y() + bar.get_height() for bar in shown.figure.axes[0].patches) == pytest.approx(1.6)


def test_many_rounds_are_shown_by_means():
    at, means, width = binned([(r, float(r), 0.0, 0.0, 0.0) for r in range(1, 121)])
    assert (len(at), width, at[0], means[0, 0]) == (60, 2, 1.5, 1.5)


@pytest.mark.parametrize("name", folder.listing("report/plots"))
@pytest.mark.parametrize(
    "size", [{"clients": 2, "rounds": 1, "inside": False}, {"clients": 200, "rounds": 3}, {"rounds": 5, "played": 0}]
)
def test_any_size_is_drawn_without_names_overlapping(tmp_path, name, size):
    plot = folder.load("report/plots", name, "report")()
    for panel in panels(plot, read([make(tmp_path / "run", **size)])).values():
        assert panel.numbers.rows and panel.says and all(len(row) == len(panel.numbers.columns) for row in panel.numbers.rows)
        with drawing.style():
            panel.figure.draw_without_rendering()
        for axis in (panel.figure.axes[0].xaxis, panel.figure.axes[0].yaxis):
            boxes = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_text() and not t.get_rotation()]
            assert not any(a.overlaps(b) for a, b in pairwise(boxes)), panel.name
        assert not math.isnan(panel.figure.get_figheight())


def test_scores_over_simulated_time_and_what_became_of_turns(two, tmp_path):
    assert not panels(Clock(), two)  # there was no clock
    run = read([make(tmp_path / "a", rounds=4, better=1.0)])[0]
    for r, row in enumerate(run.rounds):
        row |= {"simulated_clock": 100.0 * (r + 1), "dropped": 1, "late": 0, "discarded": 2}
    shown = panels(Clock(), [run, two[1]])
    assert list(shown) == ["loss", "exact_match", "turns"]
    assert shown["loss"].numbers.rows[0] == ("flex", 0.0, 2.25) and shown["loss"].numbers.rows[-1] == (
        "flex",
        400.0,
        1.25,
    )
    assert lines(shown["loss"])["flex"][-1] == (pytest.approx(400 / 60), 1.25)  # in minutes
    assert shown["loss"].says == "flex: 1.250 after 6.67 min"
    assert shown["turns"].numbers.rows == (("flex", 8, 4, 0, 8),)  # two clients in each of four rounds
    assert shown["turns"].says == "flex: 8 of 20 counted"
