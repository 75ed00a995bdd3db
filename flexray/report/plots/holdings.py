"""Who holds which data: train rows by client and label."""

from collections.abc import Iterator, Sequence

import numpy as np

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel, Plot
from flexray.report.reading import Told
from flexray.report.units import many
from flexray.sim.run_folder import Table

LABELS = 40
"""More labels than these share the last column."""
REST = "others"
MOST = 1000
"""More clients than these are shown by so many of them, evenly through their order."""


class Holdings(Plot):
    heading = "Who holds which data"
    place = 50
    made = (
        "Train rows of each client (clients.json) with each label; the commonest labels come first, and nothing is drawn where a "
        "client has none. Where the config names no label column, the rows of each split."
    )

    def panels(self, runs: Sequence[Told]) -> Iterator[Panel]:
        seen: list[Table] = []
        for run in runs:
            if run.dealt not in seen:
                seen.append(run.dealt)
                alone = all(other.dealt == run.dealt for other in runs)
                yield self._panel(run, "" if alone else f"{run.label}: ")

    def _panel(self, run: Told, whose: str) -> Panel:
        names, cells = counted(run.dealt)
        clients = [client["client"] for client in run.dealt]
        rows = tuple((client, *counts) for client, counts in zip(clients, cells, strict=True))
        kept = sorted(set(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).round().astype(int)))
        longest = max(map(len, names), default=0)
        figure, axes = drawing.canvas(drawing.tall(len(kept)) + 0.05 * min(longest, 16), grid="none")
        labelled = any(client["labels"] for client in run.dealt)
        what = "train rows" if labelled else "rows"
        drawing.heat(axes, [cells[i] for i in kept], names, [clients[i] for i in kept], what, max(map(max, cells)))
        kinds = (
            f"{many(len({label for client in run.dealt for label in client['labels']}), 'label')}"
            if labelled
            else "no label column"
        )
        says = f"{many(len(clients), 'client')}, {sum(client['train'] for client in run.dealt):,} train rows, {kinds}"
        return Panel(str(run.place + 1), f"{whose}{says}", figure, says, Numbers(("client", *names), rows))


def counted(dealt: Table) -> tuple[list[str], list[list[int]]]:
    """The labels, the commonest first, and each client's train rows of them; of each split where there are no labels."""
    totals: dict[str, int] = {}
    for label, n in ((label, n) for client in dealt for label, n in client["labels"].items()):
        totals[label] = totals.get(label, 0) + n
    if not totals:
        splits = ["train", "valid", "test"]
        return splits, [[client[split] for split in splits] for client in dealt]
    ranked = sorted(totals, key=lambda label: (-totals[label], label))
    names, rest = (ranked, []) if len(ranked) <= LABELS else (ranked[: LABELS - 1], ranked[LABELS - 1 :])
    cells = [[client["labels"].get(name, 0) for name in names] for client in dealt]
    if rest:
        cells = [[*row, sum(client["labels"].get(name, 0) for name in rest)] for row, client in zip(cells, dealt, strict=True)]
        names = [*names, REST]
    return names, cells
