"""The report of a sweep: one HTML page that holds all it needs, and its figures as PNG and SVG beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from flexray.report import drawing, page, sweep_figures
from flexray.report.page import Section, drawn, put, template
from flexray.report.plot import Numbers, Panel
from flexray.report.sweep_figures import Swept
from flexray.report.units import many
from flexray.sweeping.effects import text
from flexray.sweeping.results import Sweep, load_sweep

SETTINGS = 50
"""At most so many in the table of the best."""


class _Part(NamedTuple):
    name: str
    heading: str
    panels: Callable[[Swept], Iterator[Panel]]
    made: str


PARTS = (
    _Part(
        "settings", "Their seeds and spread", sweep_figures.best,
        "A large dot is the mean over the seeds of a setting, a small one each seed, the bar one standard deviation of the sample to "
        "either side. A trial's value is the mean over its clients on valid rows at its end.",
    ),
    _Part(
        "all", "All settings at once", sweep_figures.parallel,
        "A line for each setting, over an axis for each swept key, those that do most first, and at the right what came of it (mean "
        "over seeds). Ranges are drawn in proportion, by their logarithm where they span more than two tenfolds; lists in equal steps.",
    ),
    _Part(
        "effects", "What each key does", sweep_figures.effects,
        "The mean over all settings with this value, the bar one standard deviation of these settings to either side. The share is "
        "the part of the variance of all settings' means that lies between its values (η²): an upper bound where values were drawn, "
        "as few settings scatter. A key with many values is shown by the thirds of their order.",
    ),
    _Part(
        "together", "What pairs of keys do together", sweep_figures.interactions,
        "Means over all settings with both values. The share is what the cells differ by from the sum of the two keys' own effects, "
        "of the same variance.",
    ),
    _Part(
        "course", "The course of the search", sweep_figures.course,
        "Values of finished trials, by the number in which they were begun.",
    ),
)  # fmt: skip


def write(path: Path, out: Path, refresh: int | None = None) -> tuple[Path, Sweep]:
    """The page's file and the sweep, as far as it is. refresh: while it is unfinished the browser loads the page again after so
    many seconds."""
    made = load_sweep(path)
    swept = Swept(made)
    out.mkdir(parents=True, exist_ok=True)
    with drawing.style():
        sections = [found for part in PARTS if made.settings and (found := _section(part, swept, out)).figures]
    trials = made.trials().to_pylist()
    columns = tuple(dict.fromkeys(name for row in trials for name in row if name != "why"))
    text_ = template("sweep.html").render(
        title=f"Sweep {path.resolve().name}", path=path, left=many(made.left, "trial") if made.left > 0 else "",
        refresh=refresh if made.left > 0 else None, tiles=list(_tiles(swept)), chosen=_chosen(made), sections=sections,
        best=sweep_figures.tables(swept, made.settings[:SETTINGS]), failures=made.failures, rows=page.ROWS,
        trials=Numbers(columns, tuple(tuple("–" if row.get(c) is None else row[c] for c in columns) for row in trials)),
        settings=_settings(made), made=f"{datetime.now():%Y-%m-%d %H:%M:%S}", flexray=version("flexray"),
    )  # fmt: skip
    return put(out, text_), made


def state(made: Sweep) -> str:
    """How far the sweep is, in a line."""
    told = [f"{count} {status}" for status in ("finished", "stopped", "failed") if (count := made.count(status))]
    return f"trials {' · '.join([*told, *([f'{made.left} left'] if made.left > 0 else [])]) or 'none begun'}"


def _section(part: _Part, swept: Swept, out: Path) -> Section:
    return Section(part.name, part.heading, part.made, tuple(drawn(panel, out, part.name) for panel in part.panels(swept)))


def _tiles(swept: Swept) -> Iterator[tuple[str, str]]:
    made = swept.made
    if made.best is not None:
        spread = f" ± {swept.read(made.best.sd)}" if made.best.sd is not None else ""
        yield f"best {swept.label}", swept.read(made.best.mean) + spread
        for key, value in made.best.point.items():
            yield key, text(value)
    for status in ("finished", "stopped", "failed"):
        if count := made.count(status):
            yield f"trials {status}", str(count)
    if made.left > 0:
        yield "trials left", str(made.left)


def _chosen(made: Sweep) -> str:
    view = {"personal": "personalised", "shared": "shared only"}[made.spec.sweep.view]
    order = "less" if made.spec.less else "more"
    return f"By the mean over clients on valid rows, {view}, {order} is better; over seeds the mean and the sample's standard deviation."


def _settings(made: Sweep) -> list[tuple[str, list[str], bool]]:
    """The config's keys with what all trials have, or what is swept."""
    flat = dict(page.flat(made.spec.first.spec()))
    for key, axis in made.spec.axes.items():
        flat[key] = ", ".join(text(v) for v in axis.ends) + ("" if axis.listed else f" ({axis.kind})")
    return [(key, [value], key in made.spec.axes) for key, value in flat.items()]
