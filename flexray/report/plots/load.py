"""Expert load: who gets the tokens, at the end by layer and expert, and how uneven it is over rounds."""

from collections.abc import Iterator, Sequence

import numpy as np

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told, mean


class Load(Plot):
    heading = "Expert load"
    place = 70
    made = (
        "An expert's load is the share of tokens that the router sends to it, on valid rows of each client that are always the same "
        "(inside/, column load), over the share it had if all were equal: 1 is even. The map has the mean over clients at "
        "the last look; the lines have the busiest expert of each layer, in the mean over layers, then over clients; their band is "
        "from the 10th to the 90th percentile of clients."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        runs = [run for run in runs if any(row["load"] for row in run.inside)]
        if runs:
            yield busiest(runs)
        maps = [final(run) for run in runs]
        top = max((float(np.nanmax(cells)) for _, cells in maps), default=2.0)
        for run, (layers, cells) in zip(runs, maps, strict=True):
            yield self._map(run, "" if len(runs) == 1 else f"{run.label}: ", layers, cells, top)

    def _map(self, run: Told, whose: str, layers: list[int], cells: np.ndarray, top: float) -> Panel:
        last, experts = max(row["round"] for row in run.inside), cells.shape[1]
        figure, axes = drawing.canvas(drawing.tall(len(layers), 0.3), grid="none")
        drawing.heat(axes, cells, [str(e) for e in range(experts)], [str(n) for n in layers], "load (1: even)", top, middle=1)
        axes.set(xlabel="pretrained expert", ylabel="layer")
        y, x = np.unravel_index(np.nanargmax(cells), cells.shape)
        says = f"busiest is expert {x} of layer {layers[y]}, with {cells[y, x]:.2f} times the even share"
        table = tuple((layer, *map(float, row)) for layer, row in zip(layers, cells, strict=True))
        numbers = Numbers(("layer", *(f"expert {e}" for e in range(experts))), table)
        return Panel(f"map-{run.place + 1}", f"{whose}{'load' if whose else 'Load'} after {last} rounds", figure, says, numbers)


def final(run: Told) -> tuple[list[int], np.ndarray]:
    """The layers, and each one's loads by expert: means over clients at the last look; not a number where it has fewer experts."""
    last = max(row["round"] for row in run.inside)
    rows = [row for row in run.inside if row["round"] == last]
    layers, experts = sorted({row["layer"] for row in rows}), max(len(row["load"]) for row in rows)
    cells = np.full((len(layers), experts), np.nan)
    for y, layer in enumerate(layers):
        loads = np.array([relative(row["load"]) for row in rows if row["layer"] == layer])
        cells[y, : loads.shape[1]] = loads.mean(0)
    return layers, cells


def busiest(runs: Sequence[Told]) -> Panel:
    """How uneven the load is over rounds."""
    figure, axes = drawing.canvas()
    axes.axhline(1, color=drawing.SOFT, linestyle="--", linewidth=1.2, label="even")
    rows, ends = [], []
    for run in runs:
        found: dict[int, dict[str, list[float]]] = {}
        for row in run.inside:
            found.setdefault(row["round"], {}).setdefault(row["client"], []).append(max(relative(row["load"])))
        of = {round: {c: float(np.mean(v)) for c, v in clients.items()} for round, clients in sorted(found.items())}
        values = [list(clients.values()) for clients in of.values()]
        drawing.line(axes, list(of), [mean(clients) for clients in of.values()], run.label, **drawing.look(run.place))
        if len(runs) <= 3:
            drawing.band(axes, list(of), values, drawing.look(run.place)["color"])
        rows += [(run.label, round, mean(clients), *drawing.spread(list(clients.values()))) for round, clients in of.items()]
        ends.append(f"{run.label} ends at {mean(list(of.values())[-1]):.2f}")
    axes.set_ylabel("busiest expert's load (1: even)")
    drawing.rounds_axis(axes)
    drawing.legend(figure, axes)
    numbers = Numbers(("run", "rounds played", "mean", "10th percentile", "90th percentile"), tuple(rows))
    return Panel("busiest", "The busiest expert of a layer", figure, "; ".join(ends), numbers)


def relative(load: Sequence[float]) -> list[float]:
    """Over the even share, Σ/E."""
    even = sum(load) / len(load)
    return [x / even if even else 0.0 for x in load]
