"""The time of each round, split by what it went to."""

from collections.abc import Iterator, Sequence

import numpy as np

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told
from flexray.report.units import duration

CAUSES = {"training": "#0072b2", "communication": "#e69f00", "waiting": "#cc79a7", "evaluation": "#009e73"}
MOST = 60
"""More rounds than these are shown by means of neighbours."""


class Time(Plot):
    heading = "Where the time goes"
    place = 90
    made = (
        "Seconds of wall time of each round (rounds.parquet). Training: what the mean actor trained; communication: handling updates, and "
        "waiting for private state at rest; waiting: the rest of the round, idle. Evaluation: what the mean actor spent on scoring the "
        "state before that round (evaluations.parquet); the one at the end is a bar of its own."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        runs = [run for run in runs if run.rounds]
        top = max((sum(bar) for run in runs for bar in binned(spent(run))[1]), default=1.0)
        for run in runs:
            panel = self._panel(run, "" if len(runs) == 1 else f"{run.label}: ")
            drawing.alike(panel.figure, "y", 0, top)
            yield panel

    def _panel(self, run: Told, whose: str) -> Panel:
        rows = spent(run)
        at, means, width = binned(rows)
        figure, axes = drawing.canvas(grid="y")
        under = np.zeros(len(at))
        for i, (cause, colour) in enumerate(CAUSES.items()):
            axes.bar(at, means[:, i], width=0.8 * width, bottom=under, color=colour, label=cause)
            under += means[:, i]
        axes.set_ylabel("seconds" if width == 1 else f"seconds (mean of {width} rounds)")
        drawing.rounds_axis(axes, "round")
        drawing.legend(figure, axes)
        totals = [sum(row[1 + i] for row in rows) for i in range(len(CAUSES))]
        parts = ", ".join(f"{cause} {duration(s)}" for cause, s in zip(CAUSES, totals, strict=True))
        columns = ("round", *(f"{cause} (s)" for cause in CAUSES))
        title = f"{whose}{duration(sum(totals))} in all"
        return Panel(str(run.place + 1), title, figure, parts, Numbers(columns, tuple(rows)))


def spent(run: Told) -> list[tuple[float, ...]]:
    """Round, counted from 1, and the seconds by cause; evaluations of the state before a round are the round's."""
    scored: dict[int, float] = {}
    for row in run.evaluations:
        scored[row["round"]] = scored.get(row["round"], 0.0) + row["seconds"]
    rows = [
        (r["round"] + 1, r["seconds_training"], r["seconds_communication"], r["seconds_waiting"], scored.pop(r["round"], 0.0))
        for r in run.rounds
    ]
    return [*rows, *((round + 1, 0.0, 0.0, 0.0, seconds) for round, seconds in sorted(scored.items()))]


def binned(rows: Sequence[tuple[float, ...]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Middles of so many neighbouring rounds, the means over them, and how many they are."""
    width = -(-len(rows) // MOST)
    parts = [np.array(rows[i : i + width], float) for i in range(0, len(rows), width)]
    return np.array([p[:, 0].mean() for p in parts]), np.array([p[:, 1:].mean(0) for p in parts]), width
