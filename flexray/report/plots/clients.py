"""Each client from the frozen base over the shared parts to its own model: a dumbbell a client."""

from collections.abc import Iterator, Sequence

import numpy as np

from flexray.metric import Number
from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, axis, capital

MOST = 300
"""More clients than these are shown by so many of them, evenly through their order."""
NAMED = 22
"""Up to so many clients each has its name and larger marks."""


class Clients(Plot):
    heading = "Client by client"
    place = 30
    made = (
        "Each client's last score (clients.parquet) in three views: the frozen base as pretrained, with the shared parts only, and "
        "personalised, which is what it serves with. Ordered by the personalised score, the best on top; one scale for all runs."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        for name, how in {name: how for run in runs for name, how in run.numbers.items()}.items():
            found = [(run, {view: run.last(view, name) for view in drawing.VIEWS}) for run in runs]
            values = [value for _, views in found for of in views.values() for value in of.values()]
            for run, views in found:
                if views["personal"]:
                    panel = self._panel(run, name, how, views, "" if len(runs) == 1 else f"{run.label}: ")
                    drawing.alike(panel.figure, "x", min(values), max(values))
                    yield panel

    def _panel(self, run: Told, name: str, how: Number, views: dict[str, dict[str, float]], whose: str) -> Panel:
        order = sorted(views["personal"], key=lambda client: views["personal"][client], reverse=not how.less)
        rows = tuple((client, *(found.get(client, float("nan")) for found in views.values())) for client in order)
        kept = [rows[i] for i in sorted(set(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).round().astype(int)))]
        figure, axes = drawing.canvas(drawing.tall(len(kept)), grid="x")
        places, few = range(len(kept)), len(kept) <= NAMED
        ends = [[value for value in row[1:] if value == value] for row in kept]
        axes.hlines(
            places, [min(e) for e in ends], [max(e) for e in ends], color=drawing.GRID, linewidth=3 if few else 1, zorder=1
        )
        for i, (view, (title, colour)) in enumerate(drawing.VIEWS.items()):
            axes.scatter(
                [row[1 + i] for row in kept],
                places,
                s=(30, 22, 34)[i] if few else 7,
                label=title,
                zorder=2 + i,
                facecolors="none" if view == "base" else colour,
                edgecolors=colour,
                linewidths=(1.5 if few else 0.8) if view == "base" else 0,
            )
        axes.invert_yaxis()
        axes.margins(y=0.02 if not few else 0.6 / len(kept))
        drawing.thinned(axes, "y", [row[0] for row in kept], NAMED)
        axes.set_xlabel(axis(name, how))
        drawing.legend(figure, axes)
        base, own = views["base"], views["personal"]
        better = sum((own[c] < base[c]) == how.less and own[c] != base[c] for c in order if c in base)
        cut = f" ({len(kept)} of {len(rows)} shown)" if len(kept) < len(rows) else ""
        says = f"{better} of {len(rows)} clients are better than the frozen base with their personalised model{cut}"
        numbers = Numbers(("client", *(title for title, _ in drawing.VIEWS.values())), rows)
        return Panel(
            f"{run.place + 1}-{name}", f"{whose}{how.title if whose else capital(how.title)}{cut}", figure, says, numbers
        )
