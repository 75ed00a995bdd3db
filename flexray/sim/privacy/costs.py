"""What one update costs, as it really crosses."""

from __future__ import annotations

from flexray.sim.job import Job
from flexray.sim.privacy.guard import Guard
from flexray.sim.privacy.rules import guarded


def one_update(job: Job) -> dict[str, int]:
    """Bytes up and down, for a client that sends everything and is not lost."""
    up, down = job.up.bytes(), job.down.bytes()
    if guarded(job.experiment):
        guard, round, whole = Guard(job), 0, (job.up.bytes_by_part(), job.down.bytes_by_part())
        masks = guard.masks(round) if guard.masks else None
        client = masks.there[0] if masks and masks.there else 0
        up, down = (sum(way.values()) for way in guard.cost(client, round, whole))
    return {"up": up, "down": down}
