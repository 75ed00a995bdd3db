"""Who gets which rows, as a picture: a bar per client, cut by label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexray.data.clients import Client

LABELS = 12
"""More labels than these share one colour."""
NO_LABEL = "all rows"
REST = "other labels"


def facts(clients: Sequence[Client]) -> dict[str, Any]:
    """The partition as plain values."""
    rows = [
        {
            "client": c.name,
            "train": len(c.train),
            "valid": len(c.valid),
            "test": len(c.test),
            "dropped": c.dropped,
            "labels": c.labels,
        }
        for c in clients
    ]
    return {"clients": rows}


def draw(clients: Sequence[Client], out: Path) -> None:
    """Writes a PNG: train rows per client, one colour per label, the commonest labels first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    counts = [c.labels or {NO_LABEL: len(c.train)} for c in clients]
    totals: dict[str, int] = {}
    for count in counts:
        for label, n in count.items():
            totals[label] = totals.get(label, 0) + n
    ranked = sorted(totals, key=lambda label: (-totals[label], label))
    names = ranked if len(ranked) <= LABELS else [*ranked[: LABELS - 1], REST]
    figure, axes = plt.subplots(figsize=(9, max(2.5, 0.32 * len(clients) + 1.2)), layout="constrained")
    left = [0] * len(clients)
    colours = plt.get_cmap("tab20").colors  # pyright: ignore[reportAttributeAccessIssue]
    for i, label in enumerate(names):
        kinds = set(ranked[LABELS - 1 :]) if label == REST else {label}
        width = [sum(n for kind, n in count.items() if kind in kinds) for count in counts]
        axes.barh(range(len(clients)), width, left=left, label=label, color=colours[i % len(colours)])
        left = [a + b for a, b in zip(left, width, strict=True)]
    if len(clients) <= 60:
        axes.set_yticks(range(len(clients)), [c.name for c in clients])
    axes.set(xlabel="train rows", ylabel="client", title=f"{len(clients)} clients, {sum(left)} train rows")
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(out, dpi=120)
    plt.close(figure)
