"""What export, generate, merge and join say at their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexray.metric import Number
from flexray.report.units import size
from flexray.serve.export import Exported
from flexray.serve.generate import Answer
from flexray.serve.join import Joined
from flexray.serve.merge import Merged
from flexray.serve.scoring import Numbers

VIEWS = {"base": "frozen\nbase", "shared": "shared\nonly", "personal": "perso-\nnalised", "merged": "merged"}
WIDEST = 30
"""Columns of a name; a longer one goes on in the next line."""
KINDS = {
    "plain": "a plain model of its family",
    "custom": "a model with code of its own (modeling_flexray.py)",
    "adapter": "an adapter in PEFT's format",
}


def exported(made: Exported) -> RenderableType:
    """What was written, and how to load it."""
    return Text(f"{made.path}: {KINDS[made.kind]}, {size(made.bytes)}\nload    {made.how}")


def answers(given: Sequence[Answer]) -> RenderableType:
    """A table for each prompt, a row for each model."""
    prompts = dict.fromkeys(a.prompt for a in given)
    return Group(*(part for prompt in prompts for part in _answers(prompt, [a for a in given if a.prompt == prompt])))


def merged(made: Merged) -> RenderableType:
    """A row for each client of the run; those who share their experts are marked."""
    rows = {f"{name} *" if name in made.clients else name: numbers for name, numbers in made.scores.items()}
    note = Text("* shares its experts. On the rows that the run scores by; the merged model is the same for all.", style="dim")
    return Group(*_tables(rows, made.numbers, mean=True), note)


def joined(made: Joined) -> RenderableType:
    """The newcomer's scores, and what it did."""
    rows = " · ".join(f"{len(getattr(made.client, split))} {split}" for split in ("train", "valid", "test"))
    facts = Text(f"rows    {rows}\nsteps   {made.steps}\nstate   {made.path}")
    return Group(*_tables({made.name: made.scores}, made.numbers, mean=False), facts)


def show(what: RenderableType, console: Console) -> None:
    console.print(what, soft_wrap=not isinstance(what, Group), highlight=False)


def _answers(prompt: str, given: Sequence[Answer]) -> tuple[RenderableType, ...]:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("model", overflow="fold", max_width=WIDEST)
    table.add_column("answer", overflow="fold")
    for answer in given:
        table.add_row(Text(answer.model), Text(answer.text.strip() or "(nothing)"))
    return Text(shorten(prompt), style="bold"), table


def shorten(text: str, most: int = 300) -> str:
    """The middle of a long text left out."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _tables(rows: Mapping[str, Numbers], numbers: Mapping[str, Number], mean: bool) -> list[RenderableType]:
    shown = {name: how for name, how in numbers.items() if how.shown}
    return [_table(rows, name, how, mean) for name, how in shown.items()]


def _table(rows: Mapping[str, Numbers], metric: str, how: Number, mean: bool) -> Table:
    """One number in all views."""
    views = list(next(iter(rows.values())))
    table = Table(
        title=Text(how.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    table.add_column("client", vertical="bottom", overflow="fold", max_width=WIDEST)
    for view in views:
        table.add_column(VIEWS[view], justify="right", vertical="bottom")
    for name, scores in rows.items():
        table.add_row(Text(name), *(_cell(scores[v][metric], how) for v in views))
    if mean and len(rows) > 1:
        table.add_section()
        table.add_row("mean", *(_cell(sum(s[v][metric] for s in rows.values()) / len(rows), how) for v in views), style="bold")
    return table


def _cell(value: float, how: Number) -> str:
    return f"{value * how.scale:.{how.decimals}f}"
