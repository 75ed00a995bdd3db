"""What a process that holds clients tells the driver."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np

from flexray.models.inside import Inside
from flexray.sim.failure import Failed
from flexray.sim.local.evaluator import Marks

Cost = tuple[dict[str, int], dict[str, int]]
"""Bytes by role (part), up and down."""
COLUMNS = ("client", "loss", "steps", "tokens", "rows")
KINDS = {"loss": np.float64}


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


@dataclass(frozen=True, eq=False)
class Reports(Sequence[ClientReport]):
    """The reports of N clients in columns [N]: thousands of them cross in no time.

    cost: which of `costs` is each one's; most often there is only one.
    """

    client: np.ndarray
    loss: np.ndarray
    steps: np.ndarray
    tokens: np.ndarray
    rows: np.ndarray
    cost: np.ndarray
    costs: tuple[Cost, ...]

    @classmethod
    def of(cls, reports: Sequence[ClientReport]) -> Reports:
        """From single ones."""
        columns = {name: np.array([getattr(r, name) for r in reports], KINDS.get(name, np.int64)) for name in COLUMNS}
        cost, costs = numbered([(r.up, r.down) for r in reports])
        return cls(**columns, cost=cost, costs=costs)

    @classmethod
    def joined(cls, parts: Sequence[Reports]) -> Reports:
        """All of several, in client order; of none, none."""
        parts = [p for p in parts if len(p)]
        if not parts:
            return cls.of([])
        order = np.argsort(np.concatenate([p.client for p in parts]), kind="stable")
        columns = {name: np.concatenate([getattr(p, name) for p in parts])[order] for name in COLUMNS}
        numbers, costs = numbered([cost for p in parts for cost in p.costs])
        bounds = np.cumsum([0, *(len(p.costs) for p in parts)])
        cost = np.concatenate([numbers[at + p.cost] for at, p in zip(bounds.tolist(), parts, strict=False)])
        return cls(**columns, cost=cost[order], costs=costs)

    def without(self, clients: Collection[int]) -> Reports:
        """All but these."""
        if not clients:
            return self
        stay = ~np.isin(self.client, list(clients))
        columns = {name: getattr(self, name)[stay] for name in (*COLUMNS, "cost")}
        return Reports(**columns, costs=self.costs)

    def __len__(self) -> int:
        return len(self.client)

    @overload
    def __getitem__(self, i: int) -> ClientReport: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[ClientReport, ...]: ...
    def __getitem__(self, i: int | slice) -> ClientReport | tuple[ClientReport, ...]:
        if isinstance(i, slice):
            return tuple(self[k] for k in range(*i.indices(len(self))))
        numbers = (self.client[i], self.steps[i], self.tokens[i], self.rows[i])
        client, steps, tokens, rows = map(int, numbers)
        return ClientReport(client, float(self.loss[i]), steps, tokens, rows, *self.costs[self.cost[i]])

    def __iter__(self) -> Iterator[ClientReport]:
        return (self[i] for i in range(len(self)))

    @property
    def bytes_up(self) -> int:
        return self._bytes(0)

    @property
    def bytes_down(self) -> int:
        return self._bytes(1)

    def _bytes(self, way: int) -> int:
        each = [sum(cost[way].values()) for cost in self.costs]
        return sum(n * each[k] for k, n in enumerate(np.bincount(self.cost).tolist()))


class Sum(NamedTuple):
    """A weighted sum of updates [P]: of a cluster's `of` leaves those from `first` to before `end`."""

    cluster: int
    of: int
    first: int
    end: int
    vector: np.ndarray


@dataclass(frozen=True)
class SliceReport:
    """A slice's clients, and the seconds that the process spent on it: all, and those for which it waited for private state.

    trained: the parts that local steps changed. rests: for clients whose private state was put to rest, the round after which. failed:
    who did, of leaves that are not in it.
    """

    clients: Reports
    seconds: float
    seconds_private: float
    trained: frozenset[str] = frozenset()
    rests: dict[int, int] = field(default_factory=dict)
    failed: tuple[Failed, ...] = ()


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


@dataclass(frozen=True)
class ScoreReport:
    """What some clients scored, and the seconds that the process spent on it; and who failed."""

    scores: Scores
    seconds: float
    failed: tuple[Failed, ...] = ()


def numbered(costs: Sequence[Cost]) -> tuple[np.ndarray, tuple[Cost, ...]]:
    """Each one's number among the different ones [N], and those."""
    found: list[Cost] = []
    numbers = np.zeros(len(costs), np.int64)
    last: Cost | None = None
    for i, cost in enumerate(costs):
        if last is not None and cost[0] is last[0] and cost[1] is last[1]:
            numbers[i] = numbers[i - 1]
            continue
        if cost not in found:
            found.append(cost)
        numbers[i], last = found.index(cost), cost
    return numbers, tuple(found)
