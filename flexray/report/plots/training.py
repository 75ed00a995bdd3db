"""Train loss over rounds, a line per run."""

from collections.abc import Iterator, Sequence

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told


class Training(Plot):
    heading = "Training"
    place = 20
    made = (
        "Each client's mean loss over its local steps of the round, in nats per response token; then the mean over the round's clients, "
        "weighted by their train rows (rounds.parquet, column loss)."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        runs = [run for run in runs if course(run)[0]]
        if not runs:
            return
        figure, axes = drawing.canvas()
        for run in runs:
            drawing.line(axes, *course(run), label=run.label, **drawing.look(run.place))
        axes.set_ylabel("train loss (nats per token)")
        drawing.rounds_axis(axes)
        drawing.legend(figure, axes)
        rows = tuple((run.label, x, y) for run in runs for x, y in zip(*course(run), strict=True))
        says = "; ".join(f"{run.label}: {course(run)[1][0]:.3f} to {course(run)[1][-1]:.3f}" for run in runs)
        yield Panel("loss", "Train loss", figure, says, Numbers(("run", "after round", "train loss"), rows))


def course(run: Told) -> tuple[list[int], list[float]]:
    """Rounds played, and the loss in the last of them; those that were void are left out."""
    trained = [r for r in run.rounds if r["clients"]]
    return [r["round"] + 1 for r in trained], [r["loss"] for r in trained]
