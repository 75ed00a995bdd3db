"""Every metric over rounds: the mean over clients, and the spread between them."""

from collections.abc import Iterator, Sequence

from flexray.metric import Number
from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, axis, capital, mean

FEW = 3
"""Up to so many runs have bands: more of them hide each other."""


class Scores(Plot):
    heading = "Scores over rounds"
    place = 10
    made = (
        "A line is the plain mean over the clients scored at that evaluation (clients.parquet), of the personalised model where there "
        "are several runs; its band is from the 10th to the 90th percentile of clients. Rounds played: 0 is before the first round. "
        "The dashed line is the mean of the frozen base, of the first run; it never changes, and is scored once a client."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        metrics = {name: how for run in runs for name, how in run.numbers.items()}
        for name, how in metrics.items():
            having = [run for run in runs if run.over_rounds("personal", name)]
            if having:
                yield self._panel(name, how, having)

    def _panel(self, name: str, how: Number, runs: Sequence[Told]) -> Panel:
        figure, axes = drawing.canvas()
        base = mean(runs[0].last("base", name) or {"": float("nan")})
        axes.axhline(base, color=drawing.SOFT, linestyle="--", linewidth=1.2, label="frozen base")
        if len(runs) == 1:
            lines = [(runs[0], view, title, {"color": colour}) for view, (title, colour) in list(drawing.VIEWS.items())[1:]]
        else:
            lines = [(run, "personal", run.label, drawing.look(run.place)) for run in runs]
        rows = []
        for run, view, title, looks in lines:
            found = {round: list(values.values()) for round, values in run.over_rounds(view, name).items()}
            means = [sum(values) / len(values) for values in found.values()]
            drawing.line(axes, list(found), means, title, **looks)
            if len(lines) <= FEW:
                drawing.band(axes, list(found), list(found.values()), looks["color"])
            rows += [
                (run.label, view, x, len(v), m, *drawing.spread(v)) for (x, v), m in zip(found.items(), means, strict=True)
            ]
        axes.set_ylabel(axis(name, how))
        drawing.rounds_axis(axes)
        drawing.legend(figure, axes)
        better = "less is better" if how.less else "more is better"
        ends = "; ".join(f"{run.label} ends at {mean(run.last('personal', name)):.{how.decimals}f}" for run in runs)
        columns = ("run", "view", "rounds played", "clients", "mean", "10th percentile", "90th percentile")
        told = f"{ends}; frozen base {base:.{how.decimals}f}. {better}"
        return Panel(name, f"{capital(how.title)}, {better}", figure, told, Numbers(columns, tuple(rows)))
