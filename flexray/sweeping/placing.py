"""How much of the cluster a trial takes: planned before it starts, so that none waits for what will never be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

from flexray import cluster
from flexray.comparison.folder import begun_with
from flexray.config import Experiment
from flexray.errors import expected
from flexray.sim.job import Job
from flexray.sim.planning import apart
from flexray.sim.planning.plan import prepare, resolved
from flexray.sim.planning.settle import Trials
from flexray.sweeping.records import Record, Records
from flexray.sweeping.spec import Point, Spec

RATES = ("lr", "final_lr", "private_lr", "schedule", "warmup_rounds", "warmup_steps", "weight_decay")
"""Settings of training that change nothing of a plan: trials that differ in these alone are planned once."""


@dataclass(frozen=True)
class Room:
    """What there is: resources in all, and of the largest node. trials: how many there may be at the most; planned: jobs by their kind."""

    there: Mapping[str, float]
    node: float
    trials: int
    planned: dict[str, Job] = field(default_factory=dict, compare=False)

    def share(self, spec: Spec, x: Experiment) -> dict[str, float]:
        """What a trial may use, on one node. Raises ConfigError where no node has so much."""
        asked, gpu = x.resources.cpu_per_client, x.resources.gpu_per_client
        gpus = self.there.get("GPU", 0.0) if gpu != 0 else 0.0
        if asked > self.node:
            raise expected(
                "resources.cpu_per_client", f"at most {self.node:g} (the CPUs of the largest node)", asked, "lower it"
            )
        if gpu and not gpus:
            raise expected("resources.gpu_per_client", "none where there is no GPU", gpu, "drop it")
        cpus = spec.sweep.cpus
        if cpus == "auto":
            slots = min(int(self.there["CPU"] / asked), int(gpus) * int(1 / (gpu or 1)) if gpus else 10**9)
            cpus = (
                float(min(self.node, max(asked, int(self.there["CPU"] / min(slots, self.trials)))))
                if slots > self.trials
                else asked
            )
        if cpus > self.node:
            raise expected("sweep.cpus", f"at most {self.node:g} (the CPUs of the largest node)", cpus, "lower it, or use auto")
        if cpus < asked:
            raise expected("sweep.cpus", f"at least resources.cpu_per_client ({asked:g})", cpus, "raise it, or use auto")
        return {"CPU": cpus, "GPU": min(1.0, gpus)}

    def slots(self, trial: Record) -> int:
        """How many trials like this one go side by side."""
        by_gpu = int(self.there.get("GPU", 0) / trial.gpus + 1e-9) if trial.gpus else 10**9
        return max(1, min(self.trials, by_gpu, int(self.there["CPU"] / trial.cpus + 1e-9)))


def planned(spec: Spec, records: Records, room: Room, number: int, point: Point, *, measure: bool = True) -> Record:
    """A trial with the share that its plan takes. Raises ConfigError for what cannot work.

    With `measure`, what `auto` chooses is settled now, by measuring where it must be; else by the trial itself.
    """
    x = begun_with(records.run(number)) or _apart(spec.experiment(point), number)
    x = x.model_copy(update={"resources": x.resources.model_copy(update={"backend": "ray", "address": "local"})})
    share = room.share(spec, x)
    job = _job(x, share, room, measure)
    layout = job.layout
    if not measure:
        return Record(
            number, point, x.spec(), share["CPU"], share["GPU"], max(2, ceil(layout.actors)) if layout.actors > 1 else 1
        )
    return Record(number, point, resolved(job).spec(), layout.actors * layout.cpu, layout.actors * layout.gpu, layout.actors)


def _job(x: Experiment, share: Mapping[str, float], room: Room, measure: bool) -> Job:
    """What was planned for a trial of the same kind, or planned now."""
    spec = x.spec()
    alike = {**spec, "train": {key: value for key, value in spec["train"].items() if key not in RATES}}
    kind = json.dumps([alike, dict(share), measure], sort_keys=True, default=str)
    if kind not in room.planned:
        # A cluster that is joined may have other CPUs than this machine; a local one is not started yet.
        runner = cluster.answers if cluster.is_running() else apart.here
        room.planned[kind] = prepare(x, share, Path("private"), Trials("choices" if measure else "nothing", runner))[0]
    return replace(room.planned[kind], spec=spec)


def _apart(x: Experiment, number: int) -> Experiment:
    """Each trial's private states rest in a folder of their own."""
    if x.storage.private is None:
        return x
    return x.model_copy(update={"storage": x.storage.model_copy(update={"private": x.storage.private / f"{number:03d}"})})
