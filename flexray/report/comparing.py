"""A comparison as it goes: a line for every run that has ended, and in a terminal a bar over all rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from flexray.comparison.events import Begun, Done, Event, Rounds
from flexray.comparison.numbers import numbers
from flexray.comparison.spec import Spec
from flexray.report.units import many

SHOWN = 3
"""Numbers in a run's line."""


@contextmanager
def watching(spec: Spec, console: Console) -> Iterator[Watcher]:
    """A watcher for a comparison, whose bar is gone when the block ends."""
    columns = (SpinnerColumn(), TextColumn("rounds"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Watcher(spec, console, bars)


class Watcher:
    """Called with every event."""

    def __init__(self, spec: Spec, console: Console, bars: Progress):
        self.spec, self.console, self.bars = spec, console, bars
        self.bar = bars.add_task("rounds", total=None)
        self.rounds: dict[str, int] = {}
        self.width = max(len(cell.name) for cell in spec.cells)
        self.numbers = numbers(spec.cells[0].experiment)

    def __call__(self, what: Event) -> None:
        if isinstance(what, Begun):
            self._begun(what)
        elif isinstance(what, Rounds):
            self._advance(what.cell.name, what.rounds)
        elif isinstance(what, Done):
            self._done(what)

    def _begun(self, what: Begun) -> None:
        c = self.spec.compare
        already = f", {what.finished} finished already" if what.finished else ""
        how = f"{what.jobs} side by side" if what.jobs > 1 else "one after another"
        self._say(f"{many(len(c.labels), 'method')} × {many(len(c.seeds), 'seed')}: {len(what.left)} to run, {how}{already}")
        self.bars.update(self.bar, total=sum(cell.experiment.rounds for cell in what.left))

    def _advance(self, name: str, rounds: int) -> None:
        self.rounds[name] = max(rounds, self.rounds.get(name, 0))
        self.bars.update(self.bar, completed=sum(self.rounds.values()))

    def _done(self, what: Done) -> None:
        self._advance(what.cell.name, what.cell.experiment.rounds)
        name = f"{what.cell.name:<{self.width}}"
        if what.failure:
            self._say(f"{name}  failed: {what.failure}", "red")
        else:
            means = what.means.get(self.spec.compare.view, {})
            told = (
                f"{n.reading.title} {means[key] * n.reading.scale:.{n.reading.decimals}f}"
                for key, n in self.numbers.items()
                if n.reading.shown and key in means
            )
            self._say(f"{name}  {' · '.join(list(told)[:SHOWN])}")

    def _say(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style=style), soft_wrap=True)
