"""What a process that holds clients tells the driver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexray.models.inside import Inside
from flexray.sim.evaluator import Marks


@dataclass(frozen=True)
class ClientReport:
    """What one client's round cost and gave. loss is the mean over its local steps; up and down are bytes by role (part)."""

    client: int
    loss: float
    steps: int
    tokens: int
    rows: int
    up: dict[str, int]
    down: dict[str, int]

    @property
    def bytes_up(self) -> int:
        return sum(self.up.values())

    @property
    def bytes_down(self) -> int:
        return sum(self.down.values())


@dataclass(frozen=True)
class SliceReport:
    """A slice's clients, and the seconds that the process spent on it: training, and reading and writing private state.

    trained: the parts that local steps changed.
    """

    clients: tuple[ClientReport, ...]
    seconds: float
    seconds_private: float
    trained: frozenset[str] = frozenset()


Gathered = np.ndarray | list[np.ndarray]
"""What a slice sends to the driver: the weighted sum of its updates [P], or where a method needs `each`, what crosses of each."""


@dataclass(frozen=True)
class Sight:
    """Inside one client's model: means at every block, and which pretrained experts its own were cut from, by block."""

    blocks: tuple[Inside, ...]
    grafted: dict[str, list[int]]


@dataclass(frozen=True)
class Examined:
    """What a client scored, by view, and what was seen inside its own model, if one looked."""

    marks: dict[str, Marks]
    sight: Sight | None


Scores = dict[int, Examined]
"""Client to what was found."""
