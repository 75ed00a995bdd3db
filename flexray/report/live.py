"""A run as it goes: at most three lines a round, and in a terminal two bars below them, over rounds and over clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flexray.report.plan import show as show_plan
from flexray.report.units import count, duration, spent
from flexray.sim.events import Checkpointed, Evaluated, Event, Finished, RoundDone, Started, Stumbled
from flexray.sim.events import Progress as Arrived
from flexray.sim.planning.plan import Plan
from flexray.sim.round import RoundReport
from flexray.sim.system.turns import RoundCourse


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """A watcher for a run, whose bars are gone when the block ends. Where there is no terminal there are only lines."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Watcher(console, bars)


class Watcher:
    """Called with the plan, then with every event."""

    def __init__(self, console: Console, bars: Progress):
        self.console, self.bars = console, bars
        self.rounds = bars.add_task("rounds", total=None, info="starting")
        self.clients = bars.add_task("clients", total=None, info="", visible=False)
        self.began, self.tokens, self.of = perf_counter(), 0, 0
        self.every: int | None = None

    def __call__(self, what: Plan | Event) -> None:
        if isinstance(what, Plan):
            self._planned(what)
        elif isinstance(what, Started):
            self._started(what)
        elif isinstance(what, Arrived):
            self._arrived(what)
        elif isinstance(what, RoundDone):
            self._done(what.report)
        elif isinstance(what, Evaluated):
            self._evaluated(what)
        elif isinstance(what, Checkpointed) and what.error:
            self._say(f"  checkpoint of round {what.round + 1} failed: {what.error}; tried again later")
        elif isinstance(what, Stumbled):
            self._say(stumbled(what))
        elif isinstance(what, Finished):
            self.bars.update(self.rounds, info="done")

    def _planned(self, what: Plan) -> None:
        self.of, self.every = what.experiment.rounds, what.experiment.evaluation.every
        show_plan(what, self.console)
        self.console.print()
        self.bars.update(self.rounds, total=self.of, info="starting the actors")

    def _started(self, what: Started) -> None:
        where = f"at round {what.round + 1}" if what.round < self.of else "with the last evaluation"
        after = f", going on {where}" if what.round else ""
        died = f", {what.replaced} of them replaced, as they died in starting" if what.replaced else ""
        self._say(f"actors up in {duration(what.seconds)}{died}{after}")
        self.bars.update(self.rounds, completed=what.round, info="")
        self._next(what.round)

    def _next(self, round: int) -> None:
        """What happens before this round is played: clients are scored, or it begins at once."""
        self.began, self.tokens = perf_counter(), 0
        scoring = round == self.of or bool(self.every and round % self.every == 0)
        self.bars.reset(self.clients, total=None, description="scoring" if scoring else "clients", info="", visible=True)

    def _arrived(self, what: Arrived) -> None:
        if not self.tokens:
            self.bars.update(self.clients, description="clients", total=what.of, completed=0)
        self.tokens += what.tokens
        speed = count(self.tokens / max(perf_counter() - self.began, 1e-9))
        self.bars.update(self.clients, advance=what.clients, info=f"{speed} tokens/s")
        self.bars.update(self.rounds, info=f"loss {what.loss:.3f}")

    def _done(self, r: RoundReport) -> None:
        number = f"round {r.round + 1:>{len(str(self.of))}}/{self.of}"
        speed = f"{count(r.tokens / r.seconds)} tokens/s"
        loss = f"train loss {r.loss:.3f}" if len(r.clients) or not r.course else "void: no change"
        clock = f"   {simulated(r.course)}" if r.course else ""
        self._say(f"{number}   {loss}   {speed:>16}   {duration(r.seconds):>7}{spent(r.privacy)}{clock}")
        self.bars.update(self.rounds, completed=r.round + 1)
        self._next(r.round + 1)

    def _evaluated(self, what: Evaluated) -> None:
        for line in means(what):
            self._say(line)
        self.began = perf_counter()

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


def stumbled(what: Stumbled) -> str:
    """What failed, and what follows, in a line."""
    if not what.clients:
        return f"  a client actor is replaced, and its work done again: {what.why}"
    who = f"client {', '.join(what.clients)}, {what.doing} (attempt {what.attempts}): {what.why}"
    return f"  left out of round {what.round + 1}: {who}" if what.left_out else f"  tried again: {who}"


def simulated(c: RoundCourse) -> str:
    """The simulated clock after a round, and who of those that were asked counted."""
    return f"simulated {duration(c.ended)}, {len(c.counted)} of {len(c.turns)} counted"


def means(what: Evaluated) -> Iterator[str]:
    """Mean scores, a line for each number, view by view."""
    for name, how in what.numbers.items():
        if how.shown:
            values = [f"{view} {scores[name] * how.scale:.{how.decimals}f}" for view, scores in what.means.items()]
            yield f"  {what.split} {how.title:<18} {' · '.join(values)}"
