"""The trials of a sweep as they go: which comes next, and what has become of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from flexray.errors import ConfigError
from flexray.sweeping.events import Begun, Ended, Event, Planned, Rounds
from flexray.sweeping.placing import Room, planned
from flexray.sweeping.records import OVER, Record, Records, left
from flexray.sweeping.spec import Point, Spec

Watch = Callable[[Event], None]
FOREVER = 10**6


class Trials:
    """Asked for the next trial, and told what it reports. measure: settle what `auto` chooses before trials start."""

    def __init__(self, spec: Spec, records: Records, room: Room, say: Watch, measure: bool = True):
        self.spec, self.records, self.room, self.say = spec, records, room, say
        self.running: dict[int, Record] = {}
        self.deadline = float("inf")
        self.suggesting = None
        if spec.sweep.search == "optuna":
            self._prepare_suggesting(measure)
        else:
            self.queue = deque(self._planned(measure))
            self.left = len(self.queue)

    def _planned(self, measure: bool) -> Iterator[Record]:
        trials = list(left(self.spec, self.records))
        for done, (number, point) in enumerate(trials):
            self.say(Planned(done, len(trials)))
            yield planned(self.spec, self.records, self.room, number, point, measure=measure)

    def _prepare_suggesting(self, measure: bool) -> None:
        from flexray.sweeping.suggesting import Suggesting

        known = self.records.all()
        for point in () if known else self.spec.corners:  # what cannot be placed is told before anything starts
            planned(self.spec, self.records, self.room, FOREVER, point, measure=measure)
        self.suggesting = Suggesting(self.spec, [(r, self.value(r)) for r in known])
        again = [r for r in known if r.status not in OVER or r.status == "failed"]
        self.queue = deque(planned(self.spec, self.records, self.room, r.number, r.point, measure=False) for r in again)
        self.fresh = 1 + max((r.number for r in known), default=-1)
        self.left = len(again) + max(0, self.spec.most - self.fresh)

    @property
    def slots(self) -> int:
        """How many go side by side at the most."""
        room = max((self.room.slots(record) for record in self.queue), default=int(self.room.there["CPU"]))
        return max(1, min(room, self.spec.sweep.jobs or room, self.left))

    def begin(self) -> None:
        """The time begins to run."""
        skipped = 0 if self.suggesting else len(self.spec.refused)
        self.say(Begun(self.spec.most, self.spec.most - self.left, self.slots, skipped))
        minutes = self.spec.sweep.budget.minutes
        self.deadline = monotonic() + 60 * minutes if minutes else self.deadline

    def next(self) -> int | None:
        """The number of the trial to begin now; its record is in the folder."""
        record = self.queue.popleft() if self.queue else self._suggested()
        if record is None or self.late():
            return None
        self.records.save(record)
        self.running[record.number] = record
        self.say(Rounds(record.number, record.point, 0, record.spec["rounds"]))
        return record.number

    def _suggested(self) -> Record | None:
        while self.suggesting and self.fresh < self.spec.most:
            number, self.fresh = self.fresh, self.fresh + 1
            point = self.suggesting.point(number)
            try:
                return planned(self.spec, self.records, self.room, number, point, measure=False)
            except ConfigError as e:
                self.records.save(Record(number, point, {}))
                self._ended(number, point, "failed", e.problems[0])
        return None

    def late(self) -> bool:
        return monotonic() > self.deadline

    def heard(self, result: dict[str, Any]) -> None:
        """What a trial has reported."""
        if "round" in result:
            record = self.running[result["config"]["number"]]
            self.say(Rounds(record.number, record.point, result["round"], record.spec["rounds"], result.get("value")))

    def ended(self, number: int, why: str | None) -> None:
        """A trial is over, or was stopped as the time is."""
        record = self.running.pop(number)
        finished = (self.records.run(number) / "summary.json").exists()
        if why is None and not finished and self.late():
            return
        self._ended(number, record.point, "failed" if why else "stopped", why)

    def _ended(self, number: int, point: Point, status: str, why: str | None) -> None:
        record = self.records.end(number, status, why)
        value = self.value(record)
        if self.suggesting:
            self.suggesting.tell(number, value)
        self.say(Ended(number, point, record.status, value, record.why))

    def value(self, record: Record) -> float | None:
        """The number to choose by; of a trial that was stopped its last one."""
        if record.status == "stopped":
            scores = self.records.scores(record.number, self.spec.sweep.view, self.spec.sweep.metric)
            return scores[-1][1] if scores else None
        return self.records.value(record, self.spec)
