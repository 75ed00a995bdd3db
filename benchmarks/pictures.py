"""The pictures of the benchmarks: panels in, SVG and PNG out. What a benchmark's panels are is said in `panels.py`.

    python -m benchmarks.pictures benchmarks/pictures/*.json    # draw again from the figures kept beside each picture

`write` puts three files side by side: FILE.json (the panels with their figures), FILE.svg and FILE.png. Colours are those of
Okabe and Ito, told apart by colour-blind people too; every line has its own marker and dashes besides.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, DASHES = "osD^vPX", ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (7, 3)), "-")
INCHES, DPI = 8.0, 150
NUMBERED = 12
"""Up to so many different values of x each get their own mark on the axis."""


@dataclass(frozen=True)
class Series:
    """Points with a name. low and high: the range of each, or nothing. x of bars are their names."""

    name: str
    x: Sequence[Any]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    drawn: str = "both"
    """`line`, `points`, or `both`; points alone are rings around those of other series."""


@dataclass(frozen=True)
class Goal:
    """A line to be reached, across the panel."""

    value: float
    name: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes. bars: horizontal, one per x of the series, which then share their names; else lines."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    goals: Sequence[Goal] = ()
    bars: bool = False
    log: str = ""
    """Which axes are logarithmic: any of the letters x and y."""
    zero: bool = True
    """Whether a linear y axis begins at zero."""
    form: str = ".3g"
    """How the number at the end of a bar is written."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--picture FILE`, as every benchmark has it."""
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the figures to FILE.svg and FILE.png")


def write(panels: Sequence[Panel], file: Path | None, note: str = "") -> None:
    """Keeps the figures and draws them; without a file or without panels, nothing. note: where they were measured, today."""
    if file is None or not panels:
        return
    note = f"{date.today()}: {note}" if note else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {"note": note, "panels": [asdict(p) for p in panels]}
    file.with_suffix(".json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    draw(panels, file, note)


def read(file: Path) -> tuple[list[Panel], str]:
    """What `write` kept."""
    kept = json.loads(file.read_text())
    panels = [
        Panel(**{**p, "series": [Series(**s) for s in p["series"]], "goals": [Goal(**g) for g in p["goals"]]})
        for p in kept["panels"]
    ]
    return panels, kept["note"]


def draw(panels: Sequence[Panel], file: Path, note: str = "") -> None:
    """FILE.svg and FILE.png: one panel alone, more of them two in a row; bars, which have names, one above the other."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = 1 if len(panels) == 1 or any(p.bars for p in panels) else 2
    rows = -(-len(panels) // columns)
    height = 0.3 + sum(max(_height(p) for p in panels[i : i + columns]) for i in range(0, len(panels), columns))
    ratios = [max(_height(p) for p in panels[i : i + columns]) for i in range(0, len(panels), columns)]
    with matplotlib.rc_context({"svg.hashsalt": "flexray", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(INCHES, height), layout="constrained")
        grid: Any = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": ratios})
        for axes, panel in zip(grid.flat, panels, strict=False):
            (_bars if panel.bars else _lines)(axes, panel)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        if note:
            figure.supxlabel(note, fontsize=6.5, color="0.35", wrap=True)
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(file.with_suffix(".png"), dpi=DPI)


def _height(panel: Panel) -> float:
    """Inches."""
    legend = 0.2 * -(-(len(panel.series) + len(panel.goals)) // 2)
    if not panel.bars:
        return 3.0 + legend
    return 1.0 + 0.26 * sum(len(s.x) for s in panel.series) + (legend if len(panel.series) + len(panel.goals) > 1 else 0)


def _lines(axes: Any, panel: Panel) -> None:
    for s, colour, marker, dashes in zip(panel.series, COLOURS, MARKERS, DASHES, strict=False):
        if s.drawn == "points":
            axes.plot(s.x, s.y, "o", color="0.1", fillstyle="none", markersize=11, label=s.name)
            continue
        axes.plot(s.x, s.y, color=colour, marker="" if s.drawn == "line" else marker, ls=dashes, markersize=5, label=s.name)
        if s.low:
            axes.fill_between(s.x, s.low, s.high, color=colour, alpha=0.15, linewidth=0)
    for goal in panel.goals:
        axes.axhline(goal.value, color="0.4", linewidth=1, linestyle=":", label=goal.name)
    if "x" in panel.log:
        axes.set_xscale("log", base=2 if max((x for s in panel.series for x in s.x), default=1) <= 256 else 10)
    if "y" in panel.log:
        axes.set_yscale("log")
        _plain(axes.yaxis)
    elif panel.zero:
        axes.set_ylim(0, 1.08 * max([*(v for s in panel.series for v in (*s.y, *s.high)), *(g.value for g in panel.goals)]))
    if len(places := sorted({x for s in panel.series for x in s.x})) <= NUMBERED:
        axes.set_xticks(places, [f"{x:,}" for x in places])
        axes.set_xticks([], minor=True)
    axes.grid(alpha=0.25)
    _named(axes, panel)


def _bars(axes: Any, panel: Panel) -> None:
    """Each name's bars together, the first on top, the number behind each."""
    names, count = panel.series[0].x, len(panel.series)
    shown = [v for s in panel.series for v in (*s.y, *s.high)] + [g.value for g in panel.goals]
    for i, (s, colour) in enumerate(zip(panel.series, COLOURS, strict=False)):
        assert list(s.x) == list(names), "bars beside each other share their names"
        places = [-(n + (i + 0.5) / count * 0.8 + 0.1) for n in range(len(names))]
        ends = s.high or s.y
        axes.barh(places, s.y, height=0.8 / count, color=colour, label=s.name, xerr=_whiskers(s), ecolor="0.2")
        for place, y, end in zip(places, s.y, ends, strict=True):
            behind = {"boxstyle": "square,pad=0.15", "color": "white"}
            where = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{y:{panel.form}}", (end, place), **where, fontsize=8, bbox=behind)
    for goal in panel.goals:
        axes.axvline(goal.value, color="0.2", linewidth=1, linestyle=":", label=goal.name)
    axes.set_yticks([-(n + 0.5) for n in range(len(names))], names)
    axes.set_ylim(-len(names), 0)
    if "x" in panel.log:
        axes.set_xscale("log")
        axes.set_xlim(min(shown) / 3, max(shown) * 3)
        _plain(axes.xaxis)
    else:
        axes.set_xlim(0, 1.14 * max(shown))
    axes.grid(axis="x", alpha=0.25)
    _named(axes, panel)


def _plain(axis: Any) -> None:
    """Numbers, not powers, along a logarithmic axis; where it is short, also between the powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1,) if high / low > 100 else (1, 2, 3, 5, 7), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
    axis.set_minor_locator(NullLocator())


def _whiskers(s: Series) -> list[list[float]] | None:
    """How far the range goes below and above."""
    if not s.low:
        return None
    return [[y - a for y, a in zip(s.y, s.low, strict=True)], [b - y for y, b in zip(s.y, s.high, strict=True)]]


def _named(axes: Any, panel: Panel) -> None:
    """Title, axes, and below them the legend, where nothing is drawn."""
    from matplotlib.ticker import StrMethodFormatter

    value = axes.xaxis if panel.bars else axes.yaxis
    if value.get_scale() == "linear" and value.get_view_interval()[1] >= 1000:
        value.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_title(panel.title, fontsize=9.5, loc="left")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.series) + len(panel.goals) > 1:
        below = -0.5 / (axes.figure.get_figheight() * axes.get_position().height)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, below), ncols=2, fontsize=8, frameon=False)


def _files(names: Sequence[Path]) -> Iterator[Path]:
    for name in names:
        yield from sorted(name.glob("*.json")) if name.is_dir() else [name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[Path(__file__).with_suffix("")])
    for file in _files(parser.parse_args().files):
        panels, note = read(file)
        draw(panels, file, note)
        print(file.with_suffix(".png"))


if __name__ == "__main__":
    main()
