"""A plan as a person reads it, and as a script does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexray.report.units import count, many, size, span
from flexray.sim.plan import Plan


def show(p: Plan, console: Console) -> None:
    """The plan, one line for each question."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    for name, value in _lines(p):
        table.add_row(name, Text(value))
    console.print(table, highlight=False)


def _lines(p: Plan) -> Iterator[tuple[str, str]]:
    x, layout = p.experiment, p.layout
    work = " × ".join(many(n, what) for n, what in ((x.rounds, "round"), (x.train.steps, "step"), (x.train.batch, "row")))
    yield "method", f"{x.algorithm.name} · {work} · seed {x.seed}"
    yield "model", f"{x.model.path} · {p.family} · {many(p.blocks, 'MoE block')} · {x.model.dtype}"
    yield "parameters", f"{count(p.frozen)} frozen · {count(p.shared)} shared · {count(p.private)} private per client"
    yield "clients", f"{len(p.clients):,}, of which {p.cohort:,} a round · {x.data.path} dealt by {x.data.partition.name}"
    train, valid, test = (span([len(getattr(c, split)) for c in p.clients]) for split in ("train", "valid", "test"))
    yield "rows", f"{train} train · {valid} valid · {test} test per client"
    turns = ", clients take turns" if layout.actors * layout.seats < p.cohort else ""
    yield (
        "placement",
        (
            f"{layout.placement} · {many(layout.actors, 'actor')} × {many(layout.seats, 'seat')} × "
            f"{many(layout.threads, 'thread')} on {layout.device}{turns}"
        ),
    )
    up, down = p.bytes_up * p.cohort, p.bytes_down * p.cohort
    yield "a round", f"{size(up)} up · {size(down)} down ({size(p.bytes_up)} and {size(p.bytes_down)} per client)"
    instead = " · ".join(f"{name.replace('_', ' ')} {size(n)}" for name, n in p.costs.instead.items())
    yield "instead", f"one client, one way: {instead}"
    yield "compute", f"{count(p.costs.flops)} FLOPs a token forward, {added_share(p)} by what is trained"
    yield (
        "memory",
        (f"about {size(p.bytes_per_node)}: backbone {size(p.bytes_backbone)} once, {size(p.bytes_per_actor)} per actor"),
    )
    for i, note in enumerate(p.notes):
        yield "" if i else "notes", note


def added_share(p: Plan) -> str:
    """What the trained parts add to the frozen forward."""
    return f"{p.costs.flops_added / p.costs.flops:+.1%}"


def facts(p: Plan) -> dict[str, Any]:
    """The plan as plain values."""
    x, layout = p.experiment, p.layout
    return {
        "algorithm": x.algorithm.name,
        "seed": x.seed,
        "model": {"path": x.model.path, "family": p.family, "moe_blocks": p.blocks, "dtype": x.model.dtype},
        "parameters": {"frozen": p.frozen, "shared": p.shared, "private_per_client": p.private},
        "data": {"path": x.data.path, "partition": x.data.partition.name},
        "clients": [{"client": c.name, **{s: len(getattr(c, s)) for s in ("train", "valid", "test")}} for c in p.clients],
        "cohort": p.cohort,
        "rounds": x.rounds,
        "steps": x.train.steps,
        "batch": x.train.batch,
        "placement": layout.placement,
        "actors": layout.actors,
        "seats": layout.seats,
        "threads": layout.threads,
        "device": layout.device,
        "bytes_per_round": {"up": p.bytes_up * p.cohort, "down": p.bytes_down * p.cohort},
        "bytes_of_one_update": {"up": p.bytes_up, "down": p.bytes_down, **p.costs.instead},
        "flops_per_token": {"frozen": p.costs.flops, "added": p.costs.flops_added},
        "bytes_of_memory": {"backbone": p.bytes_backbone, "actor": p.bytes_per_actor, "node": p.bytes_per_node},
        "notes": list(p.notes),
    }
