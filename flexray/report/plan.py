"""A plan as a person reads it, and as a script does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexray.report.units import count, duration, many, size, span
from flexray.sim.planning.forecast import Forecast
from flexray.sim.planning.plan import Plan
from flexray.sim.system.timeline import Outlook


def show(p: Plan, console: Console) -> None:
    """The plan, one line for each question."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    for name, value in _lines(p):
        table.add_row(name, Text(value))
    console.print(table, highlight=False)


def _lines(p: Plan) -> Iterator[tuple[str, str]]:
    x, layout = p.experiment, p.layout
    local = many(x.train.steps, "step") if x.train.steps else f"{x.train.epochs:g} epochs"
    work = f"{many(x.rounds, 'round')} × {local} × {many(x.train.batch, 'row')}"
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
    yield "memory", _memory(p)
    if p.disk.bytes:
        yield "disk", f"about {size(p.disk.bytes)} of private state, {size(p.disk.each)} a client"
    if p.forecast:
        yield "time", _time(p.forecast)
    if p.outlook:
        yield "clock", _clock(p.outlook)
    for i, note in enumerate(p.notes):
        yield "" if i else "notes", note


def _memory(p: Plan) -> str:
    m = p.memory
    node = f"{many(m.actors, 'actor')} × {size(m.actor)}, the rest {size(m.driver + m.rest)}"
    if not m.on_gpu:
        return f"about {size(m.node)}: backbone {size(m.backbone)}, {node}"
    each = f"{m.sharing} actors, each " if m.sharing > 1 else ""
    gpu = f"{each}backbone {size(m.backbone)}, training {size(m.work)}, the process {size(m.context)}"
    return f"about {size(m.device)} a GPU: {gpu}; about {size(m.node)} a node: {node}"


def _time(f: Forecast) -> str:
    rounds = f"{many(f.rounds, 'round')} × {duration(f.round)}, {many(f.evaluations, 'evaluation')} × {duration(f.evaluation)}"
    return f"about {duration(f.whole)}: {rounds}, start {duration(f.start + f.newcomers)}"


def _clock(o: Outlook) -> str:
    """Of the simulated clock."""
    void = f", {many(o.void, 'round')} void" if o.void else ""
    each = f"{duration(o.seconds / o.rounds)} a round (at most {duration(o.longest)})"
    return (
        f"{many(o.rounds, 'round')} in {duration(o.seconds)} simulated: {each}, {o.counted:,} of {o.turns:,} turns count{void}"
    )


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
        "epochs": x.train.epochs,
        "batch": x.train.batch,
        "placement": layout.placement,
        "actors": layout.actors,
        "seats": layout.seats,
        "threads": layout.threads,
        "device": layout.device,
        "bytes_per_round": {"up": p.bytes_up * p.cohort, "down": p.bytes_down * p.cohort},
        "bytes_of_one_update": {"up": p.bytes_up, "down": p.bytes_down, **p.costs.instead},
        "flops_per_token": {"frozen": p.costs.flops, "added": p.costs.flops_added},
        "bytes_of_memory": {
            "backbone": p.memory.backbone,
            "actor": p.memory.actor,
            "node": p.memory.node,
            "gpu": p.memory.device,
        },
        "bytes_on_disk": {"client": p.disk.each, "all": p.disk.bytes},
        "seconds": {**asdict(p.forecast), "whole": p.forecast.whole} if p.forecast else None,
        **({"simulated": asdict(p.outlook)} if p.outlook else {}),
        "notes": list(p.notes),
    }
