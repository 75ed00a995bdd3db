"""What the clients of a slice did, counted while they do it, told in columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from flexray.sim.failure import Failed
from flexray.sim.job import Job
from flexray.sim.reports import Cost, Reports, SliceReport, numbered
from flexray.sim.schedule import Group

if TYPE_CHECKING:
    from flexray.sim.local.trainer import Effort


class Trained(Protocol):
    """Whoever knows what local training cost and gave."""

    @property
    def round(self) -> int: ...

    @property
    def effort(self) -> Effort: ...


class Done(NamedTuple):
    """A group's turn that went well; rests: as for `Tally.add`."""

    group: Group
    round: int
    effort: Effort
    rests: dict[int, int]


class Tally:
    """Started anew for every slice. crossing: what really crosses to and from a client in a round, from what bare payloads cost."""

    def __init__(self, job: Job, crossing: Callable[[int, int, Cost], Cost] | None = None):
        self.job, self.algorithm, self.crossing = job, job.algorithm, crossing
        self._whole: Cost = (job.up.bytes_by_part(), job.down.bytes_by_part())
        self.start()

    def start(self) -> Tally:
        """As if nobody had done anything."""
        self._clients: list[int] = []
        self._losses: list[np.ndarray] = []
        self._steps: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []
        self._costs: list[Cost] = []
        self._rests: dict[int, int] = {}
        self._parts: set[str] = set()
        return self

    def add(self, group: Group, trainer: Trained, rests: dict[int, int]) -> None:
        """A group after its local training; rests: for whom private state was written, and of after which round."""
        effort = trainer.effort
        self._clients += group
        self._losses.append(effort.loss)
        self._steps.append(effort.steps)
        self._tokens.append(effort.tokens)
        costs, crossing = map(self._cost, group), self.crossing
        self._costs += (
            costs if crossing is None else [crossing(c, trainer.round, cost) for c, cost in zip(group, costs, strict=True)]
        )
        self._rests |= rests
        self._parts |= effort.parts

    def report(self, seconds: float, seconds_private: float, failed: tuple[Failed, ...] = ()) -> SliceReport:
        if not self._clients:
            return SliceReport(Reports.of(()), seconds, seconds_private, failed=failed)
        steps = np.concatenate(self._steps)
        numbers, costs = numbered(self._costs)
        clients = Reports(
            client=np.array(self._clients),
            loss=np.concatenate(self._losses) / np.maximum(steps, 1),
            steps=steps.astype(np.int64),
            tokens=np.concatenate(self._tokens).astype(np.int64),
            rows=np.array([len(self.job.trainees[number].train) for number in self._clients]),
            cost=numbers,
            costs=costs,
        )
        return SliceReport(clients, seconds, seconds_private, frozenset(self._parts), self._rests, failed)

    def _cost(self, number: int) -> Cost:
        up, down = self.job.up, self.job.down
        cuts = self.algorithm.cut(up.payload, number), self.algorithm.cut(down.payload, number)
        if cuts[0] is up.payload and cuts[1] is down.payload:
            return self._whole
        return up.bytes_by_part(cuts[0]), down.bytes_by_part(cuts[1])
