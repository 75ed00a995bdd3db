"""A comparison as tables: in the terminal, as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from flexray.comparison.table import FEW_CLIENTS, Comparison, Method, Score, Versus
from flexray.metric import Number
from flexray.report.units import count, duration, many, size, span

BEST, LEVEL = "★", "≈"
WIDEST = 28
"""Columns of a label with its mark."""
TESTS = 3
"""Columns of the test against the reference, the last ones."""
VIEWS = {
    "personal": "what each client serves with",
    "shared": "with private parts off",
    "base": "the frozen base",
}
WHEN = {"before_steps": "before any local steps that would follow", "after_steps": "after a round's local steps on top"}


@dataclass(frozen=True)
class Sheet:
    """A table as text. marks: BEST, LEVEL or nothing for each row; none at all where nothing is marked."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()

    def with_marks(self) -> list[tuple[tuple[str, ...], str]]:
        """Every row with its mark."""
        return list(zip(self.rows, self.marks or ("",) * len(self.rows), strict=True))


def sheets(c: Comparison) -> list[Sheet]:
    """One table for each number, and one for what the methods cost."""
    return [*(_numbers(c, name) for name in c.numbers), _costs(c)]


def show(c: Comparison, console: Console) -> None:
    """Everything, for a person."""
    for sheet in sheets(c):
        console.print(Group(*_fitting(sheet, console)), highlight=False)
    console.print(Group(*(Text(note, style="dim") for note in notes(c))), highlight=False)
    for line in shortfalls(c):
        console.print(Text(line, style="red"), soft_wrap=True)


def notes(c: Comparison) -> Iterator[str]:
    """How every number was made."""
    seeds = f"{many(len(c.seeds), 'seed')} ({', '.join(map(str, c.seeds))})"
    yield (
        f"Scores: {VIEWS[c.view]}, on the {c.split} rows, after {many(c.rounds, 'round')} and {WHEN[c.scored]}; mean over "
        f"{span(c.clients)} clients ({_rows(c)}), then mean ± sd (n − 1) over {seeds}."
    )
    yield "Over another method: what a method is better by (above 0 is better), over the seeds that both have."
    if _tested(c):
        drawn = " and ".join(filter(None, (", ".join(c.over[:-1]), c.over[-1])))
        fixed = "" if "seeds" in c.over else "; seeds are taken as they are"
        yield (
            f"Against {c.reference}: paired bootstrap, {c.resamples:,} resamples of {drawn}, the same for all methods and seeds; "
            f"{100 * (1 - c.alpha):g} % percentile interval of the gain, two-sided p adjusted over the methods (Holm){fixed}."
        )
    if len(c.methods) > 1:
        yield f"{BEST} best · {LEVEL} not significantly worse than the best (the same test against it, alpha {c.alpha:g})."
    if "clients" in c.over and min(c.clients) < FEW_CLIENTS and len(c.methods) > 1:
        yield (
            f"Fewer than {FEW_CLIENTS} clients: where they differ much, an interval over clients is too narrow (of 4 clients 80 % "
            "instead of 95 %). `compare.over: [rows]` asks about these very clients only."
        )
    yield "Up and down: bytes of one client in one round; trained parameters per client; time of rounds and scoring per run."


def shortfalls(c: Comparison) -> Iterator[str]:
    """What is missing."""
    if c.finished < c.runs:
        yield f"Partial: {c.finished} of {c.runs} runs are finished."
    yield from (f"{name} failed: {why}" for name, why in c.failures.items())


def _rows(c: Comparison) -> str:
    """How many rows each number is from."""
    titles: dict[tuple[int, ...], list[str]] = {}
    for name, rows in c.rows.items():
        titles.setdefault(rows, []).append(c.numbers[name].title.removesuffix(" %"))
    told = [f"{span(rows)} rows" + (f" for {', '.join(of)}" if len(titles) > 1 else "") for rows, of in titles.items()]
    return "; ".join(told)


def _numbers(c: Comparison, name: str) -> Sheet:
    how = c.numbers[name]
    baselines = [label for label in c.baselines if label != c.reference]
    header = ("method", "mean ± sd", *(f"over\n{label}" for label in baselines))
    header += (f"over\n{c.reference}", f"{100 * (1 - c.alpha):g} %\ninterval", "p") if _tested(c) else ()
    rows, marks = [], []
    for m in c.methods:
        score = m.scores[name]
        gains = (_signed(score.gains.get(label), how) for label in baselines)
        rows.append((m.label, mean(score, how), *gains, *(_versus(score.versus, how) if _tested(c) else ())))
        marks.append(BEST if score.best else LEVEL if score.level else "")
    title = f"{how.title} ({'less' if how.less else 'more'} is better)"
    return Sheet(title, header, tuple(rows), tuple(marks) if len(c.methods) > 1 else ())


def _tested(c: Comparison) -> bool:
    """Whether there is a reference to test against."""
    return any(score.versus for m in c.methods for score in m.scores.values())


def _costs(c: Comparison) -> Sheet:
    header = ("method", "seeds", "up", "down", "shared", "private", "time")
    return Sheet("costs", header, tuple(_cost(m) for m in c.methods))


def _cost(m: Method) -> tuple[str, ...]:
    sent = (size(m.bytes_up), size(m.bytes_down))
    return (m.label, str(len(m.seeds)), *sent, count(m.shared), count(m.private), duration(m.seconds))


def mean(score: Score, how: Number) -> str:
    """Mean ± sd as shown."""
    sd = "" if score.sd is None else f" ± {score.sd * how.scale:.{how.decimals}f}"
    return f"{score.mean * how.scale:.{how.decimals}f}{sd}"


def _signed(gain: float | None, how: Number) -> str:
    if gain is None:
        return "–"
    text = f"{gain * how.scale:+.{how.decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _versus(v: Versus | None, how: Number) -> tuple[str, str, str]:
    if v is None:
        return "–", "–", "–"
    low, high = (f"{x * how.scale:.{how.decimals}f}" for x in (v.low, v.high))
    return _signed(v.gain, how), f"[{low}, {high}]", "<0.001" if v.p_holm < 0.001 else f"{v.p_holm:.3f}"


def _fitting(sheet: Sheet, console: Console) -> list[Table]:
    """One table, or where it is too wide the tests in one of their own."""
    whole = _table(sheet)
    wanted = console.measure(whole, options=console.options.update(max_width=1000)).maximum
    if wanted <= console.width or len(sheet.header) <= 2 + TESTS or not sheet.marks:
        return [whole]
    rest = [(row[0], *row[-TESTS:]) for row in sheet.rows]
    tests = Sheet("", (sheet.header[0], *sheet.header[-TESTS:]), tuple(rest), sheet.marks)
    return [
        _table(Sheet(sheet.title, sheet.header[:-TESTS], tuple(row[:-TESTS] for row in sheet.rows), sheet.marks)),
        _table(tests),
    ]


def _table(sheet: Sheet) -> Table:
    table = Table(
        title=sheet.title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for i, head in enumerate(sheet.header):
        if i == 0:
            table.add_column(head, vertical="bottom", overflow="ellipsis", no_wrap=True, max_width=WIDEST)
        else:
            table.add_column(Text(head, justify="right"), justify="right", vertical="bottom", no_wrap=True)
    for row, mark in sheet.with_marks():
        label, *cells = row
        first = f"{mark or ' '} {label}" if sheet.marks else label
        table.add_row(Text(first), *map(Text, cells), style="bold" if mark == BEST else "")
    return table
