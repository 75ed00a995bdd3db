"""Routing drift, the gate and the private experts' share over rounds."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, mean

SHOWN = {
    "drift": ("Routing drift", "drift (KL, nats)", 1.0),
    "entropy": ("Routing entropy", "entropy (nats)", 1.0),
    "gate.": ("Gate", "gate value", 1.0),
    "share.": ("Private experts' share of the output", "share of output norm (%)", 100.0),
}
"""By column, or by how columns of one kind begin: title, axis and scale."""


class Routing(Plot):
    heading = "Inside the MoE blocks"
    place = 80
    made = (
        "Means over a client's MoE blocks, then over clients (inside/), on valid rows that are always the same. Drift: KL(frozen ‖ "
        "current) of the router's distribution; entropy: of that distribution; gate: the value that blends the private expert in; "
        "share: its norm over its own and the routed experts' norm. Bands: 10th to 90th percentile of clients."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        for key, (title, axis, scale) in SHOWN.items():
            lines = [(run, column) for run in runs for column in columns(run, key)]
            if lines:
                yield self._panel(key.rstrip("."), title, axis, scale, lines)

    def _panel(self, name: str, title: str, axis: str, scale: float, lines: Sequence[tuple[Told, str]]) -> Panel:
        figure, axes = drawing.canvas()
        rows, ends = [], []
        for number, (run, column) in enumerate(lines):
            several = len({c for r, c in lines if r is run}) > 1
            label = f"{run.label} {column.partition('.')[2]}" if several else run.label
            looks = drawing.look(number if several else run.place)
            found = over_rounds(run, column, scale)
            drawing.line(axes, list(found), [mean(v) for v in found.values()], label, **looks)
            if len(lines) <= 3:
                drawing.band(axes, list(found), [list(v.values()) for v in found.values()], looks["color"])
            rows += [(label, x, mean(v), *drawing.spread(list(v.values()))) for x, v in found.items()]
            ends.append(f"{label} ends at {rows[-1][2]:.3g}")
        axes.set_ylabel(axis)
        drawing.rounds_axis(axes)
        drawing.legend(figure, axes)
        numbers = Numbers(("run", "rounds played", "mean", "10th percentile", "90th percentile"), tuple(rows))
        return Panel(name, title, figure, "; ".join(ends), numbers)


def columns(run: Told, key: str) -> list[str]:
    """The columns of a kind that the run has numbers in."""
    names = dict.fromkeys(name for row in run.inside for name, value in row.items() if value is not None)
    return [name for name in names if name == key or (key.endswith(".") and name.startswith(key))]


def over_rounds(run: Told, column: str, scale: float) -> dict[int, dict[str, float]]:
    """Each client's mean over its blocks, by rounds played."""
    found: dict[int, dict[str, list[float]]] = {}
    for row in run.inside:
        if row.get(column) is not None:
            found.setdefault(row["round"], {}).setdefault(row["client"], []).append(row[column] * scale)
    return {round: {c: fmean(v) for c, v in clients.items()} for round, clients in sorted(found.items())}
