"""What differential privacy has cost by the end of each round."""

from collections.abc import Iterator, Sequence
from math import isfinite

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told


class Privacy(Plot):
    heading = "Privacy"
    place = 47
    made = (
        "ε of all rounds so far, by the accountant and for the δ of the run's config; and the clip of the round, the largest L2 norm of a "
        "client's change (rounds.parquet, columns epsilon and clip). Runs without noise, whose ε is ∞, are in the table alone."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        runs = [run for run in runs if any(r.get("epsilon") is not None for r in run.rounds)]
        if not runs:
            return
        figure, axes = drawing.canvas()
        for run in runs:
            told = [(r["round"] + 1, r["epsilon"]) for r in run.rounds if isfinite(r["epsilon"])]
            drawing.line(axes, [x for x, _ in told], [e for _, e in told], label=run.label, **drawing.look(run.place))
        axes.set_ylabel("ε")
        drawing.rounds_axis(axes)
        drawing.legend(figure, axes)
        rows = tuple((run.label, r["round"] + 1, _shown(r["epsilon"]), r["clip"]) for run in runs for r in run.rounds)
        says = "; ".join(f"{run.label}: ε {_shown(run.rounds[-1]['epsilon'])} after {len(run.rounds)} rounds" for run in runs)
        yield Panel("epsilon", "Privacy spent", figure, says, Numbers(("run", "after round", "ε", "clip"), rows))


def _shown(epsilon: float) -> float | str:
    return epsilon if isfinite(epsilon) else "∞"
