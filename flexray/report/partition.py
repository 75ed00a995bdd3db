"""Who gets which rows: a table, plain values, and a picture with a bar per client, cut by label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexray.config import Experiment
from flexray.data.clients import Client, Prepared
from flexray.data.prepare import prepare
from flexray.data.skew import measure
from flexray.errors import ConfigError
from flexray.models import checkpoint
from flexray.models.tokenizer import Tokenizer
from flexray.sim.planning.places import possible

SPLITS = ("train", "valid", "test")
COLOURS = 12
"""More labels than these share one colour, and one column of the table where it is narrow."""
REST = "other"
WIDE = 10
"""Letters of a label above its column."""
NAMED = 60
"""Up to so many clients each has its name beside its bar."""


def deal(x: Experiment) -> Prepared:
    """The rows dealt to clients, without a look at the model's weights. Its tokenizer decides which rows are usable."""
    encoder = Tokenizer(checkpoint.locate(x.model), x.model.revision, x.model.trust_remote_code)
    return prepare(x.data, x.clients, x.seed, encoder, possible(x.storage.cache.expanduser(), "storage.cache"))


def check_picture(out: Path) -> None:
    """Raises ConfigError unless a PNG can be written there."""
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ConfigError(f"--out: expected a file ending in .png, got {str(out)!r}; name one, such as partition.png")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: expected a folder that exists, got {str(out.parent)!r}; make it first")


def facts(dealt: Prepared) -> dict[str, Any]:
    """The partition as plain values."""
    clients = [
        {"client": c.name, **{s: len(getattr(c, s)) for s in SPLITS}, "dropped": c.dropped, "labels": c.labels}
        for c in dealt.clients
    ]
    skew = measure(dealt.clients)
    for client, effective, distance in zip(clients, skew.effective or (), skew.distance or (), strict=False):
        client |= {"effective_labels": effective, "distance": distance}
    sizes = {
        s: dict(zip(("min", "median", "max"), _span([len(getattr(c, s)) for c in dealt.clients]), strict=True)) for s in SPLITS
    }
    summary: dict[str, Any] = {"sizes": sizes, "train_rows": skew.rows, "train_rows_of_several": skew.held_by_several}
    if skew.effective and skew.distance:
        summary |= {"labels": skew.labels, "effective_labels": fmean(skew.effective), "distance": fmean(skew.distance)}
    return {"clients": clients, "summary": summary, "notes": list(dealt.notes)}


def show(dealt: Prepared, console: Console) -> None:
    """The table, and what was noted while dealing."""
    clients = dealt.clients
    names = _ranked(clients, _room(clients, console.width))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("client", overflow="ellipsis", no_wrap=True, max_width=24)
    for name in (*SPLITS, *names):
        table.add_column(Text(name), justify="right", max_width=WIDE, no_wrap=True)
    for c in clients:
        counts = [n for _, n in _cut(c, names)]
        table.add_row(Text(c.name), *(f"{len(getattr(c, s)):,}" for s in SPLITS), *(f"{n:,}" if n else "·" for n in counts))
    table.add_section()
    totals = [sum(n for c in clients for name, n in _cut(c, names) if name == wanted) for wanted in names]
    sums = [sum(len(getattr(c, s)) for c in clients) for s in SPLITS]
    table.add_row("all", *(f"{n:,}" for n in (*sums, *totals)), style="bold")
    spans = zip(*(_span([len(getattr(c, s)) for c in clients]) for s in SPLITS), strict=True)
    for what, numbers in zip(("fewest", "median", "most"), spans, strict=True):
        table.add_row(what, *(f"{n:,.12g}" for n in numbers))
    console.print(table, highlight=False)
    for line in _summary(clients):
        console.print(Text(line))
    said = "labels: train rows of each" if names else "no labels: name their column in data.columns.label to see them"
    for note in (said, *dealt.notes):
        console.print(Text(note, style="dim"))


def _span(numbers: Sequence[int]) -> tuple[int, float, int]:
    return min(numbers), median(numbers), max(numbers)


def _summary(clients: Sequence[Client]) -> Iterator[str]:
    """What is usually asked of a partition, in a line each."""
    skew = measure(clients)
    if skew.effective and skew.distance:
        yield (
            f"effective labels per client, of {skew.labels} (exp of entropy): {_few(skew.effective)}\n"
            f"distance from the mix of all (total variation): {_few(skew.distance)}"
        )
    if skew.held_by_several:
        yield f"train rows that two clients or more have: {skew.held_by_several:,} of {skew.rows:,} different ones"


def _few(numbers: Sequence[float]) -> str:
    return f"mean {fmean(numbers):.2f}, {min(numbers):.2f} to {max(numbers):.2f}"


def draw(clients: Sequence[Client], out: Path) -> None:
    """Writes a PNG: train rows per client, one colour per label, the commonest labels first."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names, places = _ranked(clients, COLOURS), range(len(clients))
    height = max(2.5, min(0.32 * len(clients), 0.32 * NAMED) + 1.2)
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    left, colours = [0] * len(clients), colormaps["tab20"]
    for i, name in enumerate(names or ("train rows",)):
        widths = [dict(_cut(c, names)).get(name, 0) if names else len(c.train) for c in clients]
        axes.barh(places, widths, left=left, label=name, color=colours(i), height=0.8 if len(clients) <= NAMED else 1.0)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    if len(clients) <= NAMED:
        axes.set_yticks(places, [_safe(c.name) for c in clients])
    axes.set(xlabel="train rows", title=_title(clients))
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(0, 1.02 * max(left))
    if names:
        axes.legend([_safe(name) for name in names], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(out, dpi=120, metadata={"Software": None})


def _title(clients: Sequence[Client]) -> str:
    skew, rows = measure(clients), sum(len(c.train) for c in clients)
    title = f"{len(clients):,} clients, {rows:,} train rows"
    if skew.effective and skew.distance:
        title += f"\n{fmean(skew.effective):.2f} of {skew.labels} labels a client in effect, {fmean(skew.distance):.2f} from the mix of all"
    return title


def _room(clients: Sequence[Client], width: int) -> int:
    """How many labels fit into a table beside the client and its splits."""
    longest = max((min(len(label), WIDE) for c in clients for label in c.labels), default=1)
    return max(2, (width - min(24, max(6, *(len(c.name) for c in clients))) - 3 * 9) // (longest + 3))


def _ranked(clients: Sequence[Client], most: int) -> list[str]:
    """The labels, the commonest first; where there are too many the last ones are one."""
    totals: dict[str, int] = {}
    for label, n in ((label, n) for c in clients for label, n in c.labels.items()):
        totals[label] = totals.get(label, 0) + n
    ranked = sorted(totals, key=lambda label: (-totals[label], label))
    return ranked if len(ranked) <= most else [*ranked[: most - 1], REST]


def _cut(client: Client, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A client's rows by these labels, in their order."""
    for name in names:
        others = sum(n for label, n in client.labels.items() if label not in names)
        yield name, client.labels.get(name, 0) + (others if name == REST else 0)


def _safe(name: str) -> str:
    """A name that matplotlib takes as it is: it reads mathematics between dollar signs, and hides what starts with `_`."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
