"""What the first run is better by than each other run, client by client."""

from collections.abc import Iterator, Sequence

import numpy as np

from flexray.metric import Number
from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, axis, capital, mean


class Rivals(Plot):
    heading = "Gain over rivals"
    place = 15
    made = (
        "Per client, the last personalised score of the first run less that of another, turned so that right of 0 the first is "
        "better; clients are matched by their names. A point is a client, the diamond the mean, the bar the middle half of clients. "
        "For what is more than chance, the command flexray compare tests it in pairs."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        for name, how in runs[0].numbers.items() if len(runs) > 1 else ():
            gains = {run.label: (run.place, found) for run in runs[1:] if (found := gain(runs[0], run, name, how))}
            if gains:
                yield self._panel(runs[0].label, name, how, gains)

    def _panel(self, first: str, name: str, how: Number, gains: dict[str, tuple[int, dict[str, float]]]) -> Panel:
        figure, axes = drawing.canvas(drawing.tall(len(gains), 0.5), grid="x")
        axes.axvline(0, color=drawing.SOFT, linewidth=1)
        for y, (place, found) in enumerate(gains.values()):
            values, colour = sorted(found.values()), drawing.look(place)["color"]
            off = 0.22 * np.resize([0.0, 1.0, -1.0, 0.5, -0.5], len(values))
            axes.scatter(values, y + off, s=14, color=colour, alpha=0.5, linewidths=0)
            axes.hlines(y, *np.percentile(values, (25, 75)), color=colour, linewidth=4, alpha=0.5)
            axes.scatter([mean(found)], [y], s=60, marker="D", color=colour, edgecolors="white", linewidths=1, zorder=3)
        axes.set_yticks(range(len(gains)), [drawing.short(label) for label in gains])
        axes.set_ylim(len(gains) - 0.4, -0.6)
        axes.set_xlabel(f"gain of {drawing.short(first)} in {axis(name, how)}".replace("match %", "match, points"))
        rows = tuple((label, client, value) for label, (_, found) in gains.items() for client, value in found.items())
        says = "; ".join(f"over {label} {mean(found):+.{how.decimals}f} in the mean" for label, (_, found) in gains.items())
        return Panel(
            name, f"{capital(how.title)}: {first} against the others", figure, says, Numbers(("over", "client", "gain"), rows)
        )


def gain(first: Told, other: Told, name: str, how: Number) -> dict[str, float]:
    """What each client that both runs have gains by the first; above 0 is better."""
    ours, theirs = first.last("personal", name), other.last("personal", name)
    sign = -1 if how.less else 1
    return {client: sign * (ours[client] - theirs[client]) for client in ours if client in theirs}
