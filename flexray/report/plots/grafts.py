"""Which pretrained expert each client grafted, layer by layer."""

from collections import Counter
from collections.abc import Iterator, Sequence

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told

WRITTEN = 16
"""Up to so many experts, the number of clients is written into each cell."""


class Grafts(Plot):
    heading = "Grafted experts"
    place = 60
    made = (
        "How many clients hold a private copy of which pretrained expert in which MoE layer, at the last look inside (inside/, "
        "column grafted). The table names them client by client."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        for run in runs:
            rows = newest(run)
            if any(row["grafted"] for row in rows):
                yield self._panel(run, rows, "" if len(runs) == 1 else f"{run.label}: ")

    def _panel(self, run: Told, rows: list[dict], whose: str) -> Panel:
        layers, experts = sorted({row["layer"] for row in rows}), max(len(row["load"]) for row in rows)
        clients = dict.fromkeys(row["client"] for row in rows)
        held = Counter((row["layer"], expert) for row in rows for expert in row["grafted"])
        most = max(held.values())
        cells = [[held[layer, expert] for expert in range(experts)] for layer in layers]
        figure, axes = drawing.canvas(drawing.tall(len(layers), 0.3), grid="none")
        drawing.heat(axes, cells, [str(e) for e in range(experts)], [str(n) for n in layers], "clients that grafted it", most)
        for y, counts in enumerate(cells if experts <= WRITTEN and len(layers) <= 32 else ()):
            for x, n in enumerate(counts):
                if n:
                    axes.text(
                        x, y, str(n), ha="center", va="center", fontsize=8, color="#ffffff" if n > most / 2 else drawing.INK
                    )
        of = {(row["client"], row["layer"]): " ".join(map(str, row["grafted"])) for row in rows}
        axes.set(xlabel="pretrained expert", ylabel="layer")
        table = tuple((client, *(of.get((client, layer), "") for layer in layers)) for client in clients)
        (layer, expert), n = held.most_common(1)[0]
        says = f"{len(clients)} clients; most often, by {n} of them, expert {expert} of layer {layer}"
        return Panel(
            str(run.place + 1),
            f"{whose}{'layer' if whose else 'Layer'} × expert",
            figure,
            says,
            Numbers(("client", *(f"layer {n}" for n in layers)), table),
        )


def newest(run: Told) -> list[dict]:
    """Each client's rows of the last evaluation that looked inside."""
    last = max((row["round"] for row in run.inside), default=None)
    return [row for row in run.inside if row["round"] == last]
