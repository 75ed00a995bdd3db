"""A sweep for a terminal: while it runs a table of where it stands, at the end its best settings and what each key does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flexray.report.units import duration, many
from flexray.sweeping.effects import Setting, text
from flexray.sweeping.events import Begun, Ended, Event, Planned, Rounds
from flexray.sweeping.records import Record
from flexray.sweeping.results import Sweep
from flexray.sweeping.spec import Point, Spec

Show = Callable[[float, float | None], str]
"""A mean and its spread, as they read."""
BEST = 10
"""Settings that are shown."""
SIDE = 8
"""Running trials that are shown."""
PAIRS = 3
"""Interactions that are shown."""
PLANNED = ("number", "point", "cpus", "gpus", "actors")
"""What is told of a trial before it starts."""


@contextmanager
def watching(spec: Spec, console: Console) -> Iterator[Watcher]:
    """A watcher for a sweep, whose table is gone when the block ends."""
    watcher = Watcher(spec, console)
    with (
        Live(get_renderable=watcher.table, console=console, transient=True, refresh_per_second=2)
        if console.is_terminal
        else watcher
    ):
        yield watcher


class Watcher:
    """Called with every event: a line for every trial that is over, and the table of where the sweep stands."""

    def __init__(self, spec: Spec, console: Console):
        self.spec, self.console = spec, console
        self.of = Begun(0, 0, 1)
        self.started = monotonic()
        self.planned: Planned | None = Planned(0, 0)
        self.running: dict[int, Rounds] = {}
        self.since: dict[int, float] = {}
        self.seconds: list[float] = []
        self.over: dict[str, int] = {"finished": 0, "stopped": 0, "failed": 0}
        self.best: Ended | None = None

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: there is no table without a terminal."""

    def __call__(self, what: Event) -> None:
        if isinstance(what, Planned):
            self.planned = what
        elif isinstance(what, Begun):
            self.planned, self.of, self.started = None, what, monotonic()
            self.console.print(Text(_begun(what)), soft_wrap=True)
        elif isinstance(what, Rounds):
            self.since.setdefault(what.number, monotonic())
            self.running[what.number] = what
        else:
            self._ended(what)

    def table(self) -> Group:
        """Best so far, running, done, failed, time left."""
        if self.planned:
            of = f" · {self.planned.trials} of {self.planned.of} trials" if self.planned.of else ""
            return Group(_line(f"sweep  planning{of}"))
        counts = f"{len(self.running)} running · {self.of.over + sum(self.over.values())} of {self.of.trials} done"
        counts += "".join(f" · {n} {status}" for status, n in self.over.items() if n and status != "finished")
        rows = Table.grid(padding=(0, 2))
        for _ in range(3):
            rows.add_column(no_wrap=True, overflow="ellipsis")
        for r in list(self.running.values())[:SIDE]:
            rows.add_row(f"  {r.number:03d}", shown(r.point), f"round {r.rounds} of {r.of}" if r.rounds else "starting")
        if len(self.running) > SIDE:
            rows.add_row("  …", f"and {len(self.running) - SIDE} more", "")
        best = (
            f"best   {self.best.number:03d}  {shown(self.best.point)}  {self.show(self.best.value)}"
            if self.best
            else "best   none yet"
        )
        return Group(_line(best, "bold"), _line(f"sweep  {counts} · {self._left()}"), rows)

    def show(self, value: float | None) -> str:
        """The number to choose by, as it reads."""
        reading = self.spec.number.reading
        return f"{reading.title} {value * reading.scale:.{reading.decimals}f}" if value is not None else f"no {reading.title}"

    def _ended(self, what: Ended) -> None:
        self.running.pop(what.number, None)
        self.over[what.status] += 1
        self.seconds.append(monotonic() - self.since.pop(what.number, self.started))
        line = f"{what.number:03d}  {shown(what.point)}  "
        if what.status == "failed":
            self.console.print(Text(f"{line}failed: {what.why}", style="red"), soft_wrap=True)
            return
        note = "" if what.status == "finished" else "  stopped: it did worse than the others"
        self.console.print(Text(f"{line}{self.show(what.value)}{note}"), soft_wrap=True)
        if what.status == "finished" and what.value is not None and self._is_better(what.value):
            self.best = what

    def _is_better(self, value: float) -> bool:
        if self.best is None or self.best.value is None:
            return True
        return value < self.best.value if self.spec.less else value > self.best.value

    def _left(self) -> str:
        """By the mean time of those that are over, or what the budget leaves."""
        minutes, gone = self.spec.sweep.budget.minutes, monotonic() - self.started
        left = [60 * minutes - gone] if minutes else []
        trials = self.of.trials - self.of.over - sum(self.over.values())
        if self.seconds:
            left.append(max(0.0, gone / len(self.seconds) * trials))
        return f"about {duration(max(0.0, min(left)))} left" if left else "time left not known yet"


def _line(words: str, style: str = "") -> Text:
    """No more than a line of the terminal."""
    return Text(words, style=style, no_wrap=True, overflow="ellipsis")


def _begun(what: Begun) -> str:
    already = f", {what.over} over already" if what.over else ""
    skipped = f"; {many(what.skipped, 'combination')} left out, as refused" if what.skipped else ""
    return f"{many(what.trials, 'trial')}, {what.slots} side by side{already}{skipped}"


def shown(point: Point) -> str:
    """Settings in one line, by the last words of their keys."""
    return " ".join(f"{key.rpartition('.')[2]}={text(value)}" for key, value in point.items())


def plan(trials: list[Record], told: Begun, console: Console, as_json: bool = False) -> None:
    """Trials to come and what each takes, before any of them is started."""
    if as_json:
        print(json.dumps([{k: v for k, v in vars(r).items() if k in PLANNED} for r in trials], indent=1))
        return
    console.print(Text(_begun(told)), soft_wrap=True)
    table = Table(box=None, pad_edge=True, header_style="dim")
    for name in ("trial", *(key.rpartition(".")[2] for key in trials[0].point)) if trials else ():
        table.add_column(name)
    for name in ("rounds", "actors", "CPUs", *(["GPUs"] if any(r.gpus for r in trials) else [])) if trials else ():
        table.add_column(name, justify="right")
    for r in trials:
        gpus = [f"{r.gpus:g}"] if any(t.gpus for t in trials) else []
        values = [text(value) for value in r.point.values()]
        table.add_row(r.name, *values, str(r.spec["rounds"]), str(r.actors), f"{r.cpus:g}", *gpus)
    console.print(table, highlight=False)
    more = told.trials - told.over - len(trials)
    if more:
        console.print(Text(f"{many(more, 'trial')} to be suggested by how the others go"), soft_wrap=True)


def show(made: Sweep, console: Console) -> None:
    """Best settings, what each key does, and pairs of keys that do more together."""
    reading, scale = made.spec.number.reading, made.spec.number.reading.scale

    def number(mean: float, sd: float | None) -> str:
        spread = f" ± {sd * scale:.{reading.decimals}f}" if sd is not None else ""
        return f"{mean * scale:.{reading.decimals}f}{spread}"

    console.print(
        Text(f"\n{reading.title} on valid rows, {made.spec.sweep.view}, {'less' if reading.less else 'more'} is better"),
        style="bold",
    )
    console.print(_best(made.settings[:BEST], number), highlight=False)
    if len(made.settings) > BEST:
        console.print(Text(f" … and {many(len(made.settings) - BEST, 'setting')} more"))
    if made.effects:
        console.print(_effects(made, number), highlight=False)
    pairs = [f"{' × '.join(i.keys)} {i.share:.0%}" for i in made.interactions[:PAIRS]]
    if pairs:
        console.print(Text(f"together, beyond the sum of both: {', '.join(pairs)} of the variance"), soft_wrap=True)
    for name, why in made.failures.items():
        console.print(Text(f"{name} failed: {why}", style="red"), soft_wrap=True)
    told = [f"{made.count('finished')} finished", *(f"{made.count(s)} {s}" for s in ("stopped", "failed") if made.count(s))]
    console.print(Text(f"\ntrials {' · '.join([*told, *([f'{made.left} left'] if made.left > 0 else [])])}"), highlight=False)


def _best(settings: list[Setting], number: Show) -> Table:
    keys = list(settings[0].point)
    table = Table(box=None, pad_edge=True, header_style="dim")
    for key in keys:
        table.add_column(key.rpartition(".")[2])
    table.add_column("mean ± sd over seeds" if len(settings[0].trials) > 1 else "value", justify="right")
    table.add_column("trials", justify="right")
    for s in settings:
        names = f"{s.trials[0]:03d}" if len(s.trials) == 1 else f"{s.trials[0]:03d}–{s.trials[-1]:03d}"
        table.add_row(*(text(s.point[key]) for key in keys), number(s.mean, s.sd), names)
    return table


def _effects(made: Sweep, number: Show) -> Table:
    table = Table(
        box=None, pad_edge=True, header_style="dim", title="what each key does", title_justify="left", title_style="bold"
    )
    table.add_column("key")
    table.add_column("of the variance", justify="right")
    table.add_column("value")
    table.add_column("mean ± sd over settings", justify="right")
    table.add_column("settings", justify="right")
    for effect in made.effects:
        for i, level in enumerate(effect.levels):
            first = (effect.key, f"{effect.share:.0%}") if i == 0 else ("", "")
            table.add_row(*first, level.label, number(level.mean, level.sd), str(level.settings))
    return table
