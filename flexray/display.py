"""What a person sees in the terminal: the plan, the rounds as they pass, the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flexray.api import Run
from flexray.data.clients import Client
from flexray.sim.plan import Plan
from flexray.sim.run import Evaluated, Event, Finished, RoundDone, Started
from flexray.sim.run import Progress as Arrived

MANY = 20
"""More clients than these are shown by their best and worst few."""
SHOWN = 5
VIEWS = {"base": "frozen base", "shared": "shared only", "personal": "personalised"}

Watch = Callable[[Plan | Event], None]


def count(n: float) -> str:
    """1234567 as `1.23 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f}"


def size(n: float) -> str:
    """Bytes in decimal units: 1234567 as `1.23 MB`."""
    text = count(n)
    return text + ("B" if text[-1].isalpha() else " B")


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1)


def plan_facts(p: Plan) -> dict[str, Any]:
    """The plan as plain values."""
    x, layout = p.experiment, p.layout
    return {
        "algorithm": x.algorithm.name,
        "model": x.model.path,
        "family": p.family,
        "moe_blocks": p.blocks,
        "parameters": {"frozen": p.frozen, "shared": p.shared, "private_per_client": p.private},
        "clients": len(p.clients),
        "cohort": p.cohort,
        "rounds": x.rounds,
        "steps": x.train.steps,
        "batch": x.train.batch,
        "placement": layout.placement,
        "actors": layout.actors,
        "seats": layout.seats,
        "threads": layout.threads,
        "device": layout.device,
        "bytes_per_round": {"up": p.bytes_one_way * p.cohort, "down": p.bytes_one_way * p.cohort},
        "memory": {"backbone": p.bytes_backbone, "actor": p.bytes_per_actor, "node": p.bytes_per_node},
        "notes": list(p.notes),
    }


def plan(p: Plan, console: Console | None = None) -> None:
    """The plan, as a person reads it."""
    x, layout = p.experiment, p.layout
    rows = [len(c.train) for c in p.clients]
    table = Table.grid(padding=(0, 2))
    turns = "" if layout.actors * layout.seats >= p.cohort else ", taking turns"
    each_way = size(p.bytes_one_way * p.cohort)
    for name, value in (
        (
            "method",
            f"{x.algorithm.name} · {x.rounds} rounds × {x.train.steps} local steps × {x.train.batch} rows · seed {x.seed}",
        ),
        ("model", f"{x.model.path} ({p.family}, {p.blocks} MoE blocks, {x.model.dtype})"),
        ("parameters", f"{count(p.frozen)} frozen · {count(p.shared)} shared · {count(p.private)} private per client"),
        (
            "clients",
            f"{len(p.clients)}, {p.cohort} per round · {_span(rows)} train rows each · {x.data.path} by {x.data.partition.name}",
        ),
        (
            "placement",
            f"{layout.placement}: {_many(layout.actors, 'actor')} × {_many(layout.seats, 'seat')} on {layout.device}{turns}",
        ),
        ("per round", f"{each_way} up, {each_way} down ({size(p.bytes_one_way)} per client and way)"),
        ("memory", f"≈ {size(p.bytes_per_node)}: backbone {size(p.bytes_backbone)} once, {size(p.bytes_per_actor)} per actor"),
        *(("note", note) for note in p.notes),
    ):
        table.add_row(f"[bold]{name}[/]", value)
    (console or Console()).print(table)


@contextmanager
def live(quiet: bool = False, console: Console | None = None) -> Iterator[Watch]:
    """A watcher that shows a run as it goes: a line per round, and in a terminal a bar over its clients below."""
    if quiet:
        yield lambda _: None
        return
    console = console or Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("clients"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Watcher(console, bars)


class _Watcher:
    def __init__(self, console: Console, bars: Progress):
        self.console, self.bars, self.rounds = console, bars, 0
        self.task = bars.add_task("starting", total=None)

    def __call__(self, what: Plan | Event) -> None:
        if isinstance(what, Plan):
            self.rounds = what.experiment.rounds
            plan(what, self.console)
        elif isinstance(what, Started):
            self.console.print(
                f"actors up after {what.seconds:.1f} s" + (f", going on at round {what.round}" if what.round else "")
            )
        elif isinstance(what, Arrived):
            self._arrived(what)
        elif isinstance(what, RoundDone):
            r = what.report
            speed = count(r.tokens / r.seconds)
            line = f"round {r.round + 1:>{len(str(self.rounds))}}/{self.rounds}  loss {r.loss:.4f}  {speed} tokens/s  {r.seconds:.1f} s"
            self.console.print(line, highlight=False)
            self.bars.reset(self.task, description="scoring", total=None)
        elif isinstance(what, Evaluated):
            self.console.print(f"  test loss before round {what.round + 1}: {_means(what.means)}", highlight=False)
        elif isinstance(what, Finished):
            self.bars.update(self.task, visible=False)

    def _arrived(self, what: Arrived) -> None:
        done = self.bars.tasks[0].completed if self.bars.tasks[0].total == what.of else 0
        if not done:
            self.bars.reset(self.task, total=what.of)
        title = f"round {what.round + 1}/{self.rounds} · loss {what.loss:.3f}"
        self.bars.update(self.task, description=title, completed=done + what.clients)


def finished(run: Run, console: Console | None = None) -> None:
    """Scores per client, then bytes, time and where everything is."""
    console, s = console or Console(), run.summary
    console.print(scores(s))
    console.print(
        "[dim]frozen base: no training · shared only: private parts off · personalised: what the client serves with. Test rows.[/]"
    )
    t, b = s["seconds"], s["bytes"]
    spent = " · ".join(f"{name} {t[name]:.1f} s" for name in ("training", "communication", "waiting", "evaluation"))
    console.print(f"bytes  {size(b['up'])} up · {size(b['down'])} down")
    console.print(f"time   {spent}")
    console.print(f"speed  {count(s['tokens_per_second'])} tokens/s with {_many(s['actors'], 'actor')}")
    console.print(f"run    {run.path}", soft_wrap=True)


def scores(summary: Mapping[str, Any]) -> Table:
    """Loss and exact match per client and view, and what personalisation gained over the better of the others."""
    clients = sorted(summary["clients"], key=_gain)
    some = summary["clients"] if len(clients) <= MANY else [*clients[:SHOWN], None, *clients[-SHOWN:]]
    metrics = [m for m in ("loss", "exact_match") if m in summary["mean"]["base"]]
    table = Table(title=f"{len(clients)} clients" if len(clients) > MANY else None, title_justify="left")
    table.add_column("client")
    for metric in metrics:
        for view in VIEWS.values():
            table.add_column(f"{metric.replace('_', ' ')}\n{view}", justify="right")
    table.add_column("gain\nin loss", justify="right")
    for c in some:
        table.add_row(*(_score_row(c["client"], c, metrics) if c else ["…"] + ["…"] * (3 * len(metrics) + 1)))
    table.add_section()
    table.add_row(*_score_row("mean", summary["mean"], metrics), style="bold")
    return table


def clients(found: Sequence[Client], picture: Path, console: Console | None = None) -> None:
    """Who gets what, as a table."""
    console = console or Console()
    table = Table()
    for name in ("client", "train", "valid", "test", "dropped"):
        table.add_column(name, justify="left" if name == "client" else "right")
    table.add_column("train rows per label")
    for c in found:
        labels = ", ".join(f"{label} {n}" for label, n in sorted(c.labels.items(), key=lambda kv: -kv[1])[:SHOWN])
        more = f", … {len(c.labels) - SHOWN} more" if len(c.labels) > SHOWN else ""
        table.add_row(c.name, str(len(c.train)), str(len(c.valid)), str(len(c.test)), str(c.dropped), labels + more)
    console.print(table)
    console.print(f"picture {picture}", soft_wrap=True)


def listing(kinds: Mapping[str, Mapping[str, str]], console: Console | None = None) -> None:
    """Names and their one line."""
    console = console or Console()
    for kind, names in kinds.items():
        table = Table(title=kind, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
        for name, line in names.items():
            table.add_row(name, line)
        console.print(table)


def _score_row(name: str, score: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    cells = [f"{score[view][m]:.3f}" for m in metrics for view in VIEWS]
    return [name, *cells, f"{_gain(score):+.3f}" if "loss" in metrics else ""]


def _gain(score: Mapping[str, Any]) -> float:
    """How much lower the personalised loss is than the better of the other two."""
    if "loss" not in score["base"]:
        return 0.0
    return min(score["base"]["loss"], score["shared"]["loss"]) - score["personal"]["loss"]


def _means(means: Mapping[str, Mapping[str, float]]) -> str:
    return " · ".join(f"{VIEWS[view]} {m['loss']:.4f}" for view, m in means.items() if "loss" in m)


def _many(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"
