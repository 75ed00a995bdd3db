"""The end of a run as tables: what each client scores with the frozen base, with the shared parts, and with its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexray.metric import Number
from flexray.report.units import count, duration, many, size

MANY = 20
"""More clients than these are shown by their worst and best few."""
SHOWN = 5
NAME, NUMBER = 24, 43
"""Columns that a client's name, and one number in all views, take at most."""
VIEWS = {"base": "frozen\nbase", "shared": "shared\nonly", "personal": "perso-\nnalised"}
ENDS = {"mean": "mean", "weighted_mean": "all rows", "worst_tenth": "worst tenth", "sd": "sd", "jain": "Jain index"}
"""What stands below the clients, by its key in the summary."""
WHEN = {
    "before_steps": "before a round's local steps",
    "after_steps": "the personalised model after a round's local steps, the others before them",
}
Scores = Mapping[str, Any]


def legend(s: Scores) -> str:
    """What the tables' columns and last lines are."""
    told = s["evaluation"]
    return (
        "frozen base: as pretrained · shared only: private parts off · personalised: what the client serves with. "
        f"All on {told['split']} rows, {WHEN[told['when']]}; a gain is what the personalised model is better by. "
        "All rows: those of all clients together; worst tenth: the mean of the worst 10 % of clients. "
        "Inside: the router's entropy and how far it moved from the frozen model's (KL), in nats; the gate, and how much of the "
        "routed output is the private expert's."
    )


def gain(score: Scores, metric: str, over: str, how: Number) -> float:
    """What the personalised view is better by, as it is shown; above 0 is better."""
    gained = (score["personal"][metric] - score[over][metric]) * how.scale
    return -gained if how.less else gained


def summary(s: Scores, console: Console) -> RenderableType:
    """Everything that a person wants to know of a finished run."""
    spent = {part: s["seconds"][part] for part in ("training", "communication", "waiting", "evaluation")}
    facts = Table.grid(padding=(0, 2))
    facts.add_row("bytes", f"{size(s['bytes']['up'])} up · {size(s['bytes']['down'])} down")
    if "dp" in s.get("privacy", {}):
        facts.add_row("privacy", protected(s["privacy"]["dp"]))
    if "simulated" in s:
        facts.add_row("clock", clock(s["simulated"]))
    facts.add_row("inside", inside(s))
    facts.add_row("time", " · ".join(f"{part} {duration(seconds)}" for part, seconds in spent.items()))
    speed = f"{count(s['tokens_per_second'])} tokens/s · {many(s['actors'], 'actor')} × {many(s['seats'], 'seat')}"
    facts.add_row("speed", f"{speed} · {duration(sum(spent.values()))} in all")
    for line in left_out(s):
        facts.add_row("left out", line)
    return Group(*tables(s, console.width), Text(legend(s), style="dim"), "", facts)


def protected(dp: Scores) -> str:
    """What differential privacy promises, in one line."""
    e = "∞" if dp["epsilon"] is None else f"{dp['epsilon']:.2f}"
    whom = "whoever sees the model" if dp["where"] == "central" else "the server too"
    return f"ε {e} at δ {dp['delta']:g} against {whom} ({dp['neighbours']}; {dp['accountant'].upper()})"


def left_out(s: Scores) -> Iterator[str]:
    """Who was, a line for each client and reason; left_out.json has all."""
    rows = s.get("left_out", [])
    for name, doing, why in list(dict.fromkeys((r["name"], r["doing"], r["why"]) for r in rows))[:MANY]:
        rounds = [str(r["round"] + 1) for r in rows if (r["name"], r["doing"], r["why"]) == (name, doing, why)]
        of = "the training" if doing == "training" else "the scores before"
        more = ", …" if len(rounds) > SHOWN else ""
        yield f"{name}: {of} of round {', '.join(rounds[:SHOWN])}{more}: {why}"


def clock(t: Mapping[str, Any]) -> str:
    """What the simulated clock says in the end."""
    lost = [f"{t[name]:,} {name}" for name in ("dropped", "late", "discarded") if t[name]]
    lost += [f"{size(t['bytes_wasted'])} in vain"] if t["bytes_wasted"] else []
    lost += [many(t["void_rounds"], "round") + " void"] if t["void_rounds"] else []
    lost += [f"{t['staleness']:.1f} rounds late in the mean, {t['staleness_most']} at most"] if t["staleness_most"] else []
    return " · ".join((f"{duration(t['seconds'])} simulated", f"{t['counted']:,} of {t['selected']:,} turns counted", *lost))


def inside(s: Scores) -> str:
    """The MoE in one line: means over clients and blocks, as `models/inside.py` has them, and what is computed more."""
    seen, flops = s["inside"], s["flops_per_token"]
    told = [f"entropy {seen['entropy']:.2f} · drift {seen['drift']:.1e}"] if seen else []
    told += [f"gate {value:.2f}" for name, value in seen.items() if name.startswith("gate.")]
    told += [f"private {value:.0%}" for name, value in seen.items() if name.startswith("share.")]
    return " · ".join((*told, f"{flops['added'] / flops['frozen']:+.1%} FLOPs"))


def tables(s: Scores, width: int) -> Iterator[RenderableType]:
    """As many numbers side by side in a table as there is room for."""
    shown = {name: number for name, told in s["metrics"].items() if (number := Number(**told)).shown}
    each = max(1, (width - NAME) // NUMBER)
    for i in range(0, len(shown), each):
        yield _table(s, dict(list(shown.items())[i : i + each]), alone=each == 1)
    if len(s["clients"]) > MANY:
        yield Text(f"The {SHOWN} that gained least and most of {len(s['clients'])}; clients.parquet has all.", style="dim")


def _table(s: Scores, numbers: Mapping[str, Number], alone: bool) -> Table:
    first, how = next(iter(numbers.items()))
    title = how.title if alone else None
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("client", vertical="bottom", overflow="ellipsis", no_wrap=True, max_width=NAME)
    for number in numbers.values():
        for i, header in enumerate((*VIEWS.values(), "gain on\nbase", "gain on\nshared")):
            above = "" if alone else f"{number.title if i == 0 else ''}\n"
            table.add_column(Text(above + header, justify="right"), justify="right", vertical="bottom")
    for client in _some(s["clients"], first, how):
        table.add_row(*([client["client"], *_cells(client, numbers)] if client else ["…"]))
    table.add_section()
    for key, name in ENDS.items() if len(s["clients"]) > 1 else ():
        cells = _plain(s[key], numbers, key == "jain") if key in ("sd", "jain") else _cells(s[key], numbers)
        table.add_row(name, *cells, style="bold" if key == "mean" else "")
    return table


def _some(clients: Sequence[Scores], metric: str, how: Number) -> list[Scores | None]:
    """All clients, or those that gained least and most, with None where others are left out."""
    if len(clients) <= MANY:
        return list(clients)
    ranked = sorted(clients, key=lambda c: gain(c, metric, "base", how))
    return [*ranked[:SHOWN], None, *ranked[-SHOWN:]]


def _cells(score: Scores, numbers: Mapping[str, Number]) -> Iterator[RenderableType]:
    for name, how in numbers.items():
        yield from (f"{score[view][name] * how.scale:.{how.decimals}f}" for view in VIEWS)
        yield from (_gain(gain(score, name, over, how), how.decimals) for over in ("base", "shared"))


def _plain(score: Scores, numbers: Mapping[str, Number], index: bool) -> Iterator[RenderableType]:
    """Of what is neither better nor worse there is no gain; an index is the same in every unit."""
    for name, how in numbers.items():
        for view in VIEWS:
            yield f"{score[view][name]:.3f}" if index else f"{score[view][name] * how.scale:.{how.decimals}f}"
        yield from ("", "")


def _gain(gained: float, decimals: int) -> Text:
    text = f"{gained:+.{decimals}f}"
    nothing = float(text) == 0
    return Text(text.lstrip("+-") if nothing else text, style="" if nothing else "green" if gained > 0 else "red")
