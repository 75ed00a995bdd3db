"""The report's page: whole in itself, valid, safe, and honest about what is unfinished."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from flexray.errors import ConfigError
from flexray.report import following
from flexray.report.page import FIGURES, write
from tests.report.folders import make

VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = '<b>mine</b> & "$x$'


class Page(HTMLParser):
    """Elements are closed as they were opened; collects ids, words, and what would be fetched."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.words, self.fetched, self.pointed = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action") and not v.startswith("#")]
        self.pointed += [v[1:] for k, v in attrs if k == "href" and v.startswith("#")]
        self.pointed += re.findall(r"url\(#([^)]+)\)", " ".join(v or "" for _, v in attrs))
        self.pointed += values.get("aria-labelledby", "").split()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    runs = [
        make(path / "a", names=["<i>ann</i>", "_bob $y$"]),
        make(path / "b", method=NASTY, names=["<i>ann</i>", "_bob $y$"]),
    ]
    page, _ = write(runs, path / "out")
    return page, page.read_text()


def test_the_page_is_valid_and_needs_nothing_else(report):
    _, text = report
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.pointed) <= set(page.ids)
    assert all(link.startswith("data:") for link in page.fetched)
    assert "http" not in re.sub(r">[^<]*<", "><", text).replace("http-equiv", "")
    assert "@import" not in text and "<script" not in text


def test_names_are_escaped_everywhere(report):
    _, text = report
    assert "<b>" not in text and "<i>" not in text
    assert "&lt;b&gt;mine&lt;/b&gt; &amp; " in text and "&lt;i&gt;ann&lt;/i&gt;" in text


def test_every_figure_is_there_as_png_and_svg_and_named_for_all(report):
    page, text = report
    drawn = sorted(f.stem for f in page.parent.glob("*.svg"))
    assert drawn == sorted(f.stem for f in page.parent.glob("*.png"))
    assert len(drawn) == text.count('<svg viewBox="') == text.count('role="img"')
    assert text.count("<desc id=") == len(drawn)
    for section in (
        "Scores over rounds",
        "Gain over rivals",
        "Grafted experts",
        "Bytes against quality",
        "Where the time goes",
    ):
        assert section in text
    assert text.count("How these numbers were made.") == 10


def test_ticks_keep_their_digits(report):
    """Coordinates are shortened, words are not."""
    ticks = {float(t) for t in re.findall(r"<text[^>]*>([\d.]+)</text>", (report[0].parent / "routing-drift.svg").read_text())}
    inlined = re.search(r'aria-labelledby="routing-drift-title.*?</svg>', report[1], re.DOTALL)
    assert ticks and {float(t) for t in re.findall(r"<text[^>]*>([\d.]+)</text>", inlined[0])} == ticks


def test_colours_follow_light_and_dark(report):
    _, text = report
    assert "@media (prefers-color-scheme: dark)" in text
    assert "stroke: var(--series-0)" in text
    assert "#0072b2" not in text.partition("</style>")[2]


def test_runs_are_compared_in_their_configs(report):
    marked = re.findall(r'<tr class="differ"><th scope="row">(.*?)</th>', report[1])
    assert marked == ["algorithm.name"]


def test_an_unfinished_run_says_so_and_reloads_only_when_followed(tmp_path):
    run = make(tmp_path / "run", rounds=9, played=2)
    page, (told,) = write([run], tmp_path / "out")
    assert not told.finished
    assert "is not finished: 2 of 9 rounds are played" in page.read_text()
    assert "http-equiv" not in page.read_text()
    write([run], tmp_path / "out", refresh=10)
    assert '<meta http-equiv="refresh" content="10">' in page.read_text()


def test_following_ends_with_the_run(tmp_path):
    run, whole, seen = make(tmp_path / "run", rounds=3, played=2), make(tmp_path / "whole", rounds=3), []

    def say(told):
        seen.append(told)
        shutil.rmtree(run)
        shutil.copytree(whole, run)

    page = following.follow([run], tmp_path / "out", say, poll=0.01)
    assert seen == ["flex: 2 rounds of 3", "flex: 3 rounds"]
    assert "not finished" not in page.read_text() and "http-equiv" not in page.read_text()


def test_a_folder_of_runs_stands_for_them_and_other_folders_are_refused(tmp_path):
    for seed in (0, 1):
        make(tmp_path / "c" / "runs" / f"flex-s{seed}", seed=seed)
    _, runs = write([tmp_path / "c"], tmp_path / "out")
    assert [run.label for run in runs] == ["flex · seed 0", "flex · seed 1"]
    with pytest.raises(ConfigError, match=r"report: expected run folders, or a folder of runs, got '.*out'"):
        write([tmp_path / "out"], tmp_path / "other")


def test_a_report_starts_without_torch(tmp_path):
    run = make(tmp_path / "run")
    code = (
        "import sys\nfrom flexray.cli import app\ntry:\n    app()\nexcept SystemExit as e:\n    assert not e.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, "report", str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "flex: 2 rounds" in done.stdout and (run / "report" / "index.html").exists()


def test_of_very_many_runs_not_every_one_has_its_own_figures(tmp_path):
    runs = [make(tmp_path / f"run-{i}", rounds=1, seed=i) for i in range(FIGURES + 2)]
    page, _ = write(runs, tmp_path / "out")
    figures = [f.stem for f in (tmp_path / "out").glob("*.svg")]
    assert (
        max(sum(name.startswith(f"{section}-") for name in figures) for section in {n.split("-")[0] for n in figures})
        == FIGURES
    )
    assert "report on fewer runs to see the others" in page.read_text()
