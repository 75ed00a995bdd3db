"""What every contestant of `overhead.py` is asked to do, and how it answers. Needs nothing but numpy.

A client gets the shared numbers, trains nothing, and sends them back; it may own numbers that stay with it. The mean is
weighted by rows. In a check client k adds k · `step` to what it was sent, so that the right mean is known.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Task:
    """rows: of each client. numbers: shared, float32; owned: of each client's own, which grow by 1 every round if it `changes`."""

    rows: tuple[int, ...]
    numbers: int
    owned: int = 0
    changes: bool = False
    step: float = 0.0
    rounds: int = 6
    actors: int = 4

    @cached_property
    def shares(self) -> np.ndarray:
        """[clients] the weight of each in the mean."""
        return (np.array(self.rows) / sum(self.rows)).astype(np.float32)

    def start(self) -> np.ndarray:
        """[P] what is sent in the first round."""
        return np.random.default_rng(0).standard_normal(self.numbers, dtype=np.float32)

    @property
    def shift(self) -> float:
        """How much larger every number must be at the end."""
        return self.rounds * self.step * float(np.dot(self.rows, range(len(self.rows)))) / sum(self.rows)

    def train(self, client: int, values: np.ndarray) -> None:
        """A client's training, in place: nothing, but for the check."""
        if self.step:
            values += np.float32(client * self.step)

    def next_own(self, mine: np.ndarray | None) -> np.ndarray:
        """What a client owns after a round."""
        mine = np.zeros(self.owned, np.float32) if mine is None else mine
        return mine + np.float32(1) if self.changes else mine

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))


def load(file: str | Path) -> Task:
    told = json.loads(Path(file).read_text())
    return Task(**{**told, "rows": tuple(told["rows"])})


def asked() -> tuple[Task, Path]:
    """The task that the command line names, and the file that the answer goes into; both come last."""
    return load(sys.argv[-2]), Path(sys.argv[-1])


def answer(task: Task, file: Path, seconds: list[float], final: np.ndarray, own: float | None = None) -> None:
    """Seconds of each round, the peak memory of this very process, and how far the result is from the right one.

    own: a number that a client owns at the end, where the contestant can tell.
    """
    wrong = float(np.abs(final - task.start() - np.float32(task.shift)).max())
    if own is not None:
        wrong = max(wrong, abs(own - task.rounds * task.changes))
    file.write_text(json.dumps({"seconds": seconds, "peak": peak(), "wrong": wrong}))


def peak(pid: int | str = "self") -> int:
    """The most memory that a process has had resident, in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
