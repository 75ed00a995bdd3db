"""Who gets what: the table, the values and the picture."""

import pytest
from matplotlib.image import imread
from rich.console import Console

from flexray.data.clients import Prepared
from flexray.errors import ConfigError
from flexray.report import partition as report


@pytest.fixture
def dealt(client, tmp_path):
    def make(*clients) -> Prepared:
        return Prepared(
            tmp_path / "corpus", clients or (client("a", 5, {"x": 2, "y": 3}), client("b", 7, {"y": 7})), ("a note",)
        )

    return make


def printed(dealt: Prepared, width: int = 80) -> list[str]:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as got:
        report.show(dealt, console)
    return [line.rstrip() for line in got.get().splitlines() if line.strip()]


def test_the_table_has_rows_per_split_and_per_label(dealt):
    lines = printed(dealt())
    table = [line.split() for line in lines[:-5] if "─" not in line]
    assert table == [
        ["client", "train", "valid", "test", "y", "x"],
        ["a", "5", "4", "8", "3", "2"],
        ["b", "7", "4", "8", "7", "·"],
        ["all", "12", "8", "16", "10", "2"],
        ["fewest", "5", "4", "8"],
        ["median", "6", "4", "8"],
        ["most", "7", "4", "8"],
    ]
    assert [line.strip() for line in lines[-5:]] == [
        # a: ⅖ x, ⅗ y, and b: y; all: ⅙ x. exp(⅖ ln 5/2 + ⅗ ln 5/3) = 1.96; ⅖ − ⅙ = 0.23
        "effective labels per client, of 2 (exp of entropy): mean 1.48, 1.00 to 1.96",
        "distance from the mix of all (total variation): mean 0.20, 0.17 to 0.23",
        "train rows that two clients or more have: 5 of 7 different ones",
        "labels: train rows of each",
        "a note",
    ]


def test_without_labels_it_says_how_to_see_them(client, dealt):
    lines = printed(dealt(client("a", 5)))
    assert "no labels: name their column in data.columns.label to see them" in lines


@pytest.mark.parametrize("width", [60, 80, 200])
def test_many_labels_share_a_column_and_nothing_is_lost(client, dealt, width):
    labels = {f"label-{i:02}": i + 1 for i in range(40)}
    lines = printed(dealt(client("a", 820, labels), client("b", 3, {"label-00": 3})), width)
    assert max(map(len, lines)) <= width
    header, total = lines[0].split(), next(line.split() for line in lines if line.strip().startswith("all"))
    assert header[-1] == "other"
    assert sum(map(int, total[4:])) == 823


def test_the_values(dealt):
    facts = report.facts(dealt())
    first = {"client": "a", "train": 5, "valid": 4, "test": 8, "dropped": 0, "labels": {"x": 2, "y": 3}}
    skew = {"effective_labels": pytest.approx(2.5**0.4 * (5 / 3) ** 0.6), "distance": pytest.approx(2 / 5 - 1 / 6)}
    assert facts["clients"][0] == first | skew
    assert facts["summary"]["sizes"]["train"] == {"min": 5, "median": 6, "max": 7}
    assert facts["summary"]["labels"] == 2 and facts["summary"]["distance"] == pytest.approx(0.2)
    assert (facts["summary"]["train_rows"], facts["summary"]["train_rows_of_several"]) == (7, 5)
    assert facts["notes"] == ["a note"]


def test_the_values_without_labels(client, dealt):
    facts = report.facts(dealt(client("a", 5)))
    assert list(facts["summary"]) == ["sizes", "train_rows", "train_rows_of_several"]
    assert list(facts["clients"][0]) == ["client", "train", "valid", "test", "dropped", "labels"]


@pytest.mark.parametrize("count", [1, 8, 300])
def test_the_picture_is_a_png_that_is_not_empty_and_the_same_each_time(client, tmp_path, count):
    clients = [client(f"_c{i}$", 3 + i, {"$x$": 3, "_y": i} if i else {"$x$": 3}) for i in range(count)]
    report.draw(clients, tmp_path / "p.png")
    pixels = imread(tmp_path / "p.png")
    assert pixels.std() > 0.05
    assert 200 < pixels.shape[0] < 3000
    report.draw(clients, tmp_path / "q.png")
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()


def test_a_picture_without_labels(client, tmp_path):
    report.draw([client("a", 5), client("b", 7)], tmp_path / "p.png")
    assert imread(tmp_path / "p.png").std() > 0.05


@pytest.mark.parametrize(("name", "wanted"), [("p.pdf", "a file ending in .png"), ("no/p.png", "a folder that exists")])
def test_a_place_where_no_picture_can_go(tmp_path, name, wanted):
    with pytest.raises(ConfigError, match=f"--out: expected {wanted}, got"):
        report.check_picture(tmp_path / name)
