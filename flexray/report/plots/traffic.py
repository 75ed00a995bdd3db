"""Bytes against quality, with the Pareto front: what each run has to send for what it scores."""

from collections.abc import Iterator, Sequence

from flexray.metric import Number
from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, axis, capital, mean
from flexray.report.units import SCALES

Point = tuple[float, float]


class Traffic(Plot):
    heading = "Bytes against quality"
    place = 40
    made = (
        "Across: bytes of all tensors that crossed between server and clients until then, up and down, of all clients together, what "
        "clients told before the first round included (rounds.parquet, bytes/). Up: the personalised mean over clients at an "
        "evaluation. The front joins all points that no other point beats in both: nothing cheaper is as good."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        for name, how in {name: how for run in runs for name, how in run.numbers.items()}.items():
            courses = [(run, found) for run in runs if (found := course(run, name))]
            if courses:
                yield self._panel(name, how, courses)

    def _panel(self, name: str, how: Number, courses: Sequence[tuple[Told, list[Point]]]) -> Panel:
        figure, axes = drawing.canvas()
        top = max(x for _, points in courses for x, _ in points)
        unit, scale = next(((f"{u.replace('k', 'K')}B", s) for u, s in SCALES if top >= s), ("B", 1.0))
        front = pareto([point for _, points in courses for point in points], how.less)
        axes.plot(
            [x / scale for x, _ in front], [y for _, y in front], color=drawing.SOFT, linewidth=5, alpha=0.3,
            solid_capstyle="round", label="Pareto front",
        )  # fmt: skip
        for run, points in courses:
            drawing.line(axes, [x / scale for x, _ in points], [y for _, y in points], run.label, **drawing.look(run.place))
        axes.set(xlabel=f"crossed so far ({unit})", ylabel=axis(name, how))
        axes.margins(x=0.04)
        drawing.legend(figure, axes)
        rows = tuple((run.label, x, y, "yes" if (x, y) in front else "") for run, points in courses for x, y in points)
        ends = "; ".join(
            f"{run.label}: {found[-1][0] / scale:.3g} {unit} for {found[-1][1]:.{how.decimals}f}" for run, found in courses
        )
        return Panel(name, capital(how.title), figure, ends, Numbers(("run", "bytes", how.title, "on the front"), rows))


def course(run: Told, name: str) -> list[Point]:
    """Bytes so far and the mean score at each evaluation."""
    return [(float(run.crossed(round)), mean(values)) for round, values in run.over_rounds("personal", name).items()]


def pareto(points: Sequence[Point], less: bool) -> list[Point]:
    """Those that are better than all that cost as much or less, the cheapest first."""
    front: list[Point] = []
    for cost, score in sorted(set(points), key=lambda p: (p[0], p[1] if less else -p[1])):
        if not front or (score < front[-1][1] if less else score > front[-1][1]):
            front.append((cost, score))
    return front
