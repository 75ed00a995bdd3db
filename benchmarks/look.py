"""Watching a run from beside it: the seconds of its rounds, and the memory of its processes."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, linear_regression
from time import perf_counter, sleep
from typing import Any

import flexray
from benchmarks.common import MIB, smaps, workers
from flexray.config import Experiment
from flexray.sim.events import RoundDone

KINDS = {"driver": ("ray::Driver",), "actors": ("ray::ClientHost",), "Ray": ("raylet", "gcs_server"), "caller": ()}
"""What there is to weigh, and how the titles of its processes begin; the caller is this one."""
LEAVE_SECONDS = 20.0
"""To wait at the most for the processes of a run that was stopped."""


class Enough(Exception):
    """All rounds that were wanted are over."""


@dataclass
class Look:
    """Watches so many rounds of a run: seconds, tokens and newcomers of each, and after each what memory its processes have
    to themselves, in MiB, by kind; the mean where there are several."""

    rounds: int
    memory: bool = True
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    newcomers: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    mib: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def __call__(self, what: Any) -> None:
        if not isinstance(what, RoundDone):
            return
        clients = {c.client for c in what.report.clients}
        self.newcomers.append(len(clients - self.seen))
        self.seen |= clients
        self.seconds.append(what.report.seconds)
        self.tokens.append(what.report.tokens)
        for kind, titles in KINDS.items() if self.memory else ():
            pids = workers(*titles) if titles else [os.getpid()]
            self.mib[kind].append(fmean(smaps(pid)["uss"] for pid in pids) / MIB)
        if len(self.seconds) == self.rounds:
            raise Enough

    def later(self) -> list[float]:
        """Seconds without the first round, in which caches are cold."""
        return self.seconds[1:] or self.seconds

    def slope(self, kind: str) -> float:
        """MiB per 100 rounds, over the second half of them: until then allocators fill up."""
        values = self.mib[kind][len(self.mib[kind]) // 2 :]
        return 100 * linear_regression(range(len(values)), values).slope if len(values) > 1 else float("nan")


def played(x: Experiment, folder: Path, look: Look) -> Look:
    """So many rounds of a run, watched; what is left of it is waited for and removed."""
    with suppress(Enough):
        flexray.simulate(x, folder, watch=look)
    until = perf_counter() + LEAVE_SECONDS
    while workers(*KINDS["driver"], *KINDS["actors"]) and perf_counter() < until:
        sleep(0.1)
    shutil.rmtree(folder)
    return look
