"""The end of a run as tables: what each client scores with the frozen base, with the shared parts, and with its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexray.report.units import count, duration, many, size

MANY = 20
"""More clients than these are shown by their worst and best few."""
SHOWN = 5
WIDE = 110
"""Columns from which on all metrics stand in one table."""
VIEWS = {"base": "frozen\nbase", "shared": "shared\nonly", "personal": "perso-\nnalised"}
LEGEND = (
    "frozen base: as pretrained · shared only: private parts off · personalised: what the client serves with. "
    "All on test rows; a gain is what the personalised model is better by."
)
Scores = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """How a metric is shown: by what to multiply it, its decimals, and whether less of it is better."""

    title: str
    scale: float
    decimals: int
    less: bool

    def gain(self, score: Scores, metric: str, over: str) -> float:
        """What the personalised view is better by; above 0 is better."""
        gained = (score["personal"][metric] - score[over][metric]) * self.scale
        return -gained if self.less else gained


METRICS = {"loss": Shown("loss", 1, 3, True), "exact_match": Shown("exact match %", 100, 1, False)}


def summary(s: Scores, console: Console) -> RenderableType:
    """Everything that a person wants to know of a finished run."""
    spent = {part: s["seconds"][part] for part in ("training", "communication", "waiting", "evaluation")}
    facts = Table.grid(padding=(0, 2))
    facts.add_row("bytes", f"{size(s['bytes']['up'])} up · {size(s['bytes']['down'])} down")
    facts.add_row("time", " · ".join(f"{part} {duration(seconds)}" for part, seconds in spent.items()))
    speed = f"{count(s['tokens_per_second'])} tokens/s · {many(s['actors'], 'actor')} × {many(s['seats'], 'seat')}"
    facts.add_row("speed", f"{speed} · {duration(sum(spent.values()))} in all")
    return Group(*tables(s, console.width), Text(LEGEND, style="dim"), "", facts)


def tables(s: Scores, width: int) -> Iterator[RenderableType]:
    """One table of all metrics where there is room, else one for each."""
    metrics = [m for m in METRICS if all(m in s["mean"].get(view, {}) for view in VIEWS)]
    groups = [metrics] if width >= WIDE else [[m] for m in metrics]
    yield from (_table(s, group) for group in groups)
    if len(s["clients"]) > MANY:
        yield Text(f"The {SHOWN} that gained least and most of {len(s['clients'])}; clients.parquet has all.", style="dim")


def _table(s: Scores, metrics: Sequence[str]) -> Table:
    alone = len(metrics) == 1
    title = METRICS[metrics[0]].title if alone else None
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("client", vertical="bottom", overflow="ellipsis", no_wrap=True, max_width=24)
    for metric in metrics:
        for i, header in enumerate((*VIEWS.values(), "gain on\nbase", "gain on\nshared")):
            above = "" if alone else f"{METRICS[metric].title if i == 0 else ''}\n"
            table.add_column(Text(above + header, justify="right"), justify="right", vertical="bottom")
    for client in _some(s["clients"], metrics[0]):
        table.add_row(*([client["client"], *_cells(client, metrics)] if client else ["…"]))
    table.add_section()
    table.add_row("mean", *_cells(s["mean"], metrics), style="bold")
    return table


def _some(clients: Sequence[Scores], metric: str) -> list[Scores | None]:
    """All clients, or those that gained least and most, with None where others are left out."""
    if len(clients) <= MANY:
        return list(clients)
    ranked = sorted(clients, key=lambda c: METRICS[metric].gain(c, metric, "base"))
    return [*ranked[:SHOWN], None, *ranked[-SHOWN:]]


def _cells(score: Scores, metrics: Sequence[str]) -> Iterator[RenderableType]:
    for metric in metrics:
        how = METRICS[metric]
        yield from (f"{score[view][metric] * how.scale:.{how.decimals}f}" for view in VIEWS)
        yield from (_gain(how.gain(score, metric, over), how.decimals) for over in ("base", "shared"))


def _gain(gained: float, decimals: int) -> Text:
    text = f"{gained:+.{decimals}f}"
    nothing = float(text) == 0
    return Text(text.lstrip("+-") if nothing else text, style="" if nothing else "green" if gained > 0 else "red")
