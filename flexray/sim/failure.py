"""What is done about clients that fail: the policy, which decides, and the tries of one round, which count. No clock, no Ray, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from flexray.errors import RunError
from flexray.sections import Faults
from flexray.sim.schedule import Group

Kind = Literal["raised", "died", "late", "gone"]
"""How: it raised, its process died or took too long, or the node of an actor has gone, which is nobody's fault."""
Doing = Literal["training", "scoring"]

LEAST = 600.0
"""Seconds that a client has at least, if `faults.client_seconds` is auto."""
TIMES = 50.0
"""It may take so many times as long as the slowest so far, for as many tokens."""
UNKNOWN = 86400.0
"""Seconds that a client has before anybody is done."""
SAYS = {"raised": "failed", "died": "took its process along", "late": "took too long", "gone": "lost its node"}


class Failed(NamedTuple):
    """Clients of which one failed, or the only one that did. leaf: the number of their leaf; -1: they were scored."""

    clients: Group
    why: str
    kind: Kind = "raised"
    leaf: int = -1


@dataclass(frozen=True)
class Trouble:
    """Something failed. Then the clients are tried again, or left out. clients: none, if an actor died between two turns."""

    clients: Group
    doing: Doing
    kind: Kind
    why: str
    attempts: int
    left_out: bool = False


class Verdict(Enum):
    """What is done: the same again; each of the suspects alone; without the client; no more."""

    AGAIN = "again"
    APART = "apart"
    LEAVE_OUT = "leave out"
    FAIL = "fail"


def decide(suspects: int, attempts: int, faults: Faults) -> Verdict:
    """After so many failed attempts of a turn in which so many clients sat together, one of whom fails."""
    if attempts <= faults.retries:
        return Verdict.AGAIN
    if suspects > 1:
        return Verdict.APART
    return Verdict.LEAVE_OUT if faults.on_failure == "skip" else Verdict.FAIL


def patience(faults: Faults, slowest: float, tokens: float) -> float | None:
    """Seconds that a client with so many tokens may take; None: any time. slowest: seconds per token so far, 0: nobody is done."""
    if faults.client_seconds != "auto":
        return faults.client_seconds
    return max(LEAST, TIMES * slowest * tokens) if slowest else UNKNOWN


@dataclass
class Tries:
    """What failed in a round so far. names: of all clients; many: of those who are to be trained, how many."""

    faults: Faults
    names: Sequence[str]
    round: int
    many: int = 0
    restarts: int = 0
    left: set[tuple[Doing, int]] = field(default_factory=set)
    _counts: Counter[tuple[Doing, int]] = field(default_factory=Counter)
    _apart: set[tuple[Doing, int]] = field(default_factory=set)
    _well: set[int] = field(default_factory=set)
    _ill: set[int] = field(default_factory=set)  # failed alone

    def failed(self, f: Failed, doing: Doing) -> Trouble:
        """Counts it, and says what follows. Raises RunError if the run is to end."""
        mine: list[tuple[Doing, int]] = [(doing, c) for c in f.clients]
        self._counts.update(mine)
        self._ill.update(f.clients if doing == "training" and len(mine) == 1 else ())
        attempts = max(self._counts[key] for key in mine)
        verdict = decide(len(mine), attempts, self.faults)
        if verdict is Verdict.LEAVE_OUT and doing == "training" and self._nobody_is_well():
            raise RunError(f"round {self.round}: every client fails, {self._last(f, doing, attempts)}")
        if verdict is Verdict.FAIL:
            raise RunError(
                f"round {self.round}, {self._last(f, doing, attempts)}\n"
                "To go on without clients that fail, set `faults.on_failure: skip` (in config.yaml of the run's folder to resume it)."
            )
        if verdict is Verdict.APART:
            self._apart.update(mine)
        if verdict is Verdict.LEAVE_OUT:
            self.left.update(mine)
        return Trouble(f.clients, doing, f.kind, f.why, attempts, verdict is Verdict.LEAVE_OUT)

    def died(self, f: Failed, doing: Doing) -> Trouble:
        """The same for what took an actor along; without clients nobody is to blame. Raises RunError if too many actors died."""
        self.restarts += f.kind != "gone"
        if self.restarts > self.faults.restarts:
            whom = f"while it was {doing} client {self.named(f.clients)}" if f.clients else "between two clients' turns"
            raise RunError(
                f"round {self.round}: {self.restarts} client actors died, more than `faults.restarts: {self.faults.restarts}` allows; "
                f"the last one {whom}: {f.why}\nIf memory runs out, lower seats or train.batch, or give each actor more CPUs."
            )
        return self.failed(f, doing) if f.clients else Trouble((), doing, f.kind, f.why, self.restarts)

    def did(self, clients: Iterable[int], doing: Doing) -> None:
        """These are done, and not under suspicion any more."""
        self._well.update(clients if doing == "training" else ())
        if self._counts:
            for client in clients:
                self._counts.pop((doing, client), None)

    def seated(self, groups: Sequence[Group], doing: Doing) -> tuple[Group, ...]:
        """Groups as they are to be tried now: without who is left out, and suspects alone."""
        found: list[Group] = []
        for group in groups:
            group = tuple(c for c in group if (doing, c) not in self.left)
            apart = any((doing, c) in self._apart for c in group)
            found += [(c,) for c in group] if apart else [group] if group else []
        return tuple(found)

    def named(self, clients: Iterable[int]) -> str:
        return ", ".join(self.names[c] for c in clients)

    def _nobody_is_well(self) -> bool:
        return not self._well and len(self._ill) >= self.many

    def _last(self, f: Failed, doing: Doing, attempts: int) -> str:
        times = f" {attempts} times" if attempts > 1 else ""
        return f"client {self.named(f.clients)}: {f.why} ({SAYS[f.kind]}{times} in {doing})"
