"""The report of runs: one HTML page that holds all it needs, and its figures as PNG and SVG beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from flexray import folder
from flexray.report import drawing, svg
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, mean, method, read
from flexray.report.units import duration, many, size
from flexray.sim.planning.places import possible

PAGE = "index.html"
FIGURES = 12
"""At most so many in a section."""
ROWS = 400
"""More rows than these of a figure's numbers are left out of the page."""


@dataclass(frozen=True)
class Shown:
    """A figure on the page."""

    file: str
    title: str
    says: str
    svg: str
    numbers: Numbers


@dataclass(frozen=True)
class Section:
    """The figures of one plot."""

    name: str
    heading: str
    made: str
    figures: tuple[Shown, ...]


def write(paths: Sequence[Path], out: Path, refresh: int | None = None) -> tuple[Path, list[Told]]:
    """The page's file and the runs. refresh: while a run is unfinished the browser loads the page again after so many seconds."""
    runs = read(paths)
    possible(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    with drawing.style():
        sections = [section for plot in plots() if (section := _section(plot, runs, out)).figures]
    going = [run for run in runs if not run.finished]
    title = " · ".join(run.label for run in runs) if len(runs) < 5 else f"{len(runs)} runs"
    text = template("page.html").render(
        title=title, runs=runs, sections=sections, going=going, glance=glance(runs),
        settings=settings(runs), versions=versions(runs), names=[r.label for r in runs] if len(runs) > 1 else ["value"],
        refresh=refresh if going else None, rows=ROWS,
        made=f"{datetime.now():%Y-%m-%d %H:%M:%S}", flexray=runs[0].versions["packages"]["flexray"],
    )  # fmt: skip
    return put(out, text), runs


def put(out: Path, text: str) -> Path:
    """The page in its place, whole."""
    page, new = out / PAGE, out / f".{PAGE}.tmp"
    new.write_text(text, encoding="utf-8")
    os.replace(new, page)
    return page


def state(runs: Sequence[Told]) -> str:
    """How far the runs are, in a line."""
    return " · ".join(
        f"{run.label}: {many(len(run.rounds), 'round')}" + ("" if run.finished else f" of {run.config['rounds']}")
        for run in runs
    )


def plots() -> list[Plot]:
    """Those of the folder, in the page's order."""
    every = [folder.load("report/plots", name, "report")() for name in folder.listing("report/plots")]
    return sorted(every, key=lambda plot: (plot.place, plot.name))


def _section(plot: Plot, runs: Sequence[Told], out: Path) -> Section:
    """Of many runs, figures that show one each end somewhere: a page must open on a phone."""
    panels = iter(plot.panels(runs))
    figures = tuple(drawn(panel, out, plot.name) for panel in islice(panels, FIGURES))
    more = next(panels, None) is not None
    note = f" There are more figures than the {FIGURES} shown here: report on fewer runs to see the others." if more else ""
    return Section(plot.name, plot.heading, plot.made + note, figures)


def drawn(panel: Panel, out: Path, section: str) -> Shown:
    """A figure in its files, and for the page."""
    name = f"{section}-{panel.name}"
    return Shown(name, panel.title, panel.says, svg.inline(svg.save(panel, out, name), panel, name), panel.numbers)


def glance(runs: Sequence[Told]) -> Numbers:
    """The first table: a row per run."""
    metrics = {name: how for run in runs for name, how in run.numbers.items()}
    told = any(run.label != run.config["algorithm"]["name"] for run in runs) or len(runs) == 1
    columns = ["run", *(["method"] if told else [])]
    columns += [f"{how.title} {view}" for how in metrics.values() for view in ("base", "shared", "personalised")]
    rows = []
    for run in runs:
        played = f"{len(run.rounds)}" if run.finished else f"{len(run.rounds)} of {run.config['rounds']}"
        row: list[Any] = [run.label, *([method(run.config)] if told else [])]
        for name, how in metrics.items():
            views = [run.last(view, name) for view in drawing.VIEWS]
            row += [f"{mean(found):.{how.decimals}f}" if found else "–" for found in views]
        seconds = sum(r["seconds"] for r in run.rounds) + sum(e["seconds"] for e in run.evaluations)
        rows.append((*row, size(run.crossed(len(run.rounds))), duration(seconds), played, len(run.dealt), run.config["seed"]))
    return Numbers((*columns, "crossed", "time", "rounds", "clients", "seed"), tuple(rows))


def settings(runs: Sequence[Told]) -> list[tuple[str, list[str], bool]]:
    """Every dotted key of the configs with its value in each run; whether the runs differ in it."""
    found = [dict(flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for config in found for key in config)
    values = {key: [config.get(key, "–") for config in found] for key in keys}
    return [(key, of, len(set(of)) > 1) for key, of in values.items()]


def versions(runs: Sequence[Told]) -> list[tuple[str, list[str], bool]]:
    """As `settings`, of what the runs ran with."""
    found = [{"python": r.versions["python"], "machine": r.versions["machine"], **r.versions["packages"]} for r in runs]
    keys = dict.fromkeys(key for versions in found for key in versions)
    values = {key: [str(versions.get(key, "–")) for versions in found] for key in keys}
    return [(key, of, len(set(of)) > 1) for key, of in values.items()]


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A config's dotted keys and their values in words."""
    if isinstance(value, dict) and value and path != "plugins":
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}".lstrip("."))
    elif path == "plugins":
        yield from (
            (f"plugins.{name}", f"{len(text.splitlines())} lines, sha256 {folder.digest(text)[:12]}")
            for name, text in value.items()
        )
    else:
        yield path, "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def template(name: str) -> Any:
    """One of the pages, to be filled."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = folder.PACKAGE / "assets" / "report"
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["told"] = told
    return environment.get_template(name)


def told(value: Any) -> str:
    """A cell of a table."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
