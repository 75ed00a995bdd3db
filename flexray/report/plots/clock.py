"""Quality over simulated time, and what became of the clients that were asked, of runs with a simulated clock."""

from collections.abc import Iterator, Sequence

from flexray.metric import Number
from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, axis, capital, mean

UNITS = (("h", 3600.0, 2.0), ("min", 60.0, 2.0), ("s", 1.0, 0.0))
"""Name, seconds, and of how many the axis must be long."""
FATES = {"counted": "clients", "dropped": "dropped", "late": "late", "in vain": "discarded"}
"""What is shown of a run's turns, and the column of rounds.parquet that counts it."""


class Clock(Plot):
    heading = "On the simulated clock"
    place = 45
    made = (
        "Across: seconds of the simulated clock at the end of the last round before an evaluation (rounds.parquet, simulated_clock). Up: "
        "the personalised mean over clients. No second of that clock was waited; see docs/system.md. Turns: of all clients "
        "that were asked, how many counted, fell silent or left, came after the deadline, or came in vain."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        clocked = [run for run in runs if run.rounds and "simulated_clock" in run.rounds[0]]
        for name, how in {name: how for run in clocked for name, how in run.numbers.items()}.items():
            having = [run for run in clocked if course(run, name)]
            if having:
                yield self._scores(name, how, having)
        if clocked:
            yield self._turns(clocked)

    def _scores(self, name: str, how: Number, runs: Sequence[Told]) -> Panel:
        figure, axes = drawing.canvas()
        courses = [(run, course(run, name)) for run in runs]
        top = max(x for _, points in courses for x, _ in points)
        unit, scale = next((u, s) for u, s, least in UNITS if top >= least * s)
        for run, points in courses:
            drawing.line(axes, [x / scale for x, _ in points], [y for _, y in points], run.label, **drawing.look(run.place))
        axes.set(xlabel=f"simulated time ({unit})", ylabel=axis(name, how))
        axes.margins(x=0.04)
        drawing.legend(figure, axes)
        rows = tuple((run.label, x, y) for run, points in courses for x, y in points)
        ends = "; ".join(f"{r.label}: {p[-1][1]:.{how.decimals}f} after {p[-1][0] / scale:.3g} {unit}" for r, p in courses)
        return Panel(name, capital(how.title), figure, ends, Numbers(("run", "simulated seconds", how.title), rows))

    def _turns(self, runs: Sequence[Told]) -> Panel:
        figure, axes = drawing.canvas(drawing.tall(len(runs), 0.5), "x")
        told = [{fate: sum(r[column] for r in run.rounds) for fate, column in FATES.items()} for run in runs]
        left = [0] * len(runs)
        for place, fate in enumerate(FATES):
            widths = [own[fate] for own in told]
            axes.barh(
                [drawing.short(run.label) for run in runs], widths, left=left, label=fate, color=drawing.look(place)["color"]
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("turns")
        drawing.legend(figure, axes)
        rows = tuple((run.label, *own.values()) for run, own in zip(runs, told, strict=True))
        says = "; ".join(
            f"{run.label}: {own['counted']} of {sum(own.values())} counted" for run, own in zip(runs, told, strict=True)
        )
        return Panel("turns", "Turns", figure, says, Numbers(("run", *FATES), rows))


def course(run: Told, name: str) -> list[tuple[float, float]]:
    """Simulated seconds so far and the mean score at each evaluation."""
    at = {0: 0.0} | {r["round"] + 1: r["simulated_clock"] for r in run.rounds}
    return [(at[round], mean(values)) for round, values in run.over_rounds("personal", name).items() if round in at]
