"""Several nodes, as Ray sees them: where actors go, what of the cache they are brought, and what all nodes must share."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flexray.errors import expected
from flexray.sim import host, supplies
from flexray.sim.job import Job, Layout
from flexray.sim.private.store import this_process
from flexray.sim.supplies import Listing

KEPT = 4
"""Pieces that stay in the object store for the next node that asks for them: nodes that come together get each from one another."""
AHEAD = 3
"""Pieces that are asked for before they are needed."""
PROBE_SECONDS = 60.0
SHARED = "a folder that all nodes share"


class Courier:
    """Beside the driver: reads of the cache what other nodes ask for."""

    def __init__(self, job: Job):
        self.cache = supplies.cache_of(job)
        self.known = {str(entry): self.cache / entry for entry in supplies.entries(job, self.cache).values()}
        self._kept: OrderedDict[tuple[str, str, int], Any] = OrderedDict()

    def root(self) -> Path:
        """The planner's cache."""
        return self.cache

    def files(self, entry: str) -> Listing:
        """An entry's files."""
        return supplies.listing(self.known[entry])

    def piece(self, entry: str, name: str, at: int) -> list[Any]:
        """A reference to the piece, in a list: who asks gets it from whichever node has it."""
        key = entry, name, at
        if key not in self._kept:
            self._kept[key] = ray.put(supplies.piece(self.known[entry], name, at))
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return [self._kept[key]]


class ClientHost(host.ClientHost):
    """The client actor: a host whose node has, or gets, what it needs. mark: in a folder that all nodes must share; see `Turns`."""

    def __init__(self, job: Job, mark: Path, courier: Any = None):
        if not mark.parent.exists():
            raise unshared(job.private, ray.util.get_node_ip_address())
        super().__init__(supplied(job, courier), behind=True, tells=True, mark=mark)

    def up(self) -> tuple[str, str]:
        """Answers once it is: the process and its node, as files and as Ray name them."""
        self.ready()
        return this_process(), ray.get_runtime_context().get_node_id()


def supplied(job: Job, courier: Any) -> Job:
    """The job as this node has it, from a courier's node. Without a courier it is that one."""
    if courier is None:
        return job

    def bring(entry: str, listed: Listing) -> Iterator[np.ndarray]:
        asked = deque[Any]()
        for name, at in supplies.offsets(listed):
            asked.append(courier.piece.remote(entry, name, at))
            if len(asked) > AHEAD:
                yield _got(asked.popleft())
        while asked:
            yield _got(asked.popleft())

    def listed(entry: str) -> Listing:
        return _asked(courier.files.remote(entry))

    return supplies.here(job, _asked(courier.root.remote()), listed, bring, ray.util.get_node_ip_address())


def courier_for(job: Job) -> Any:
    """A courier on this node, if there are other nodes; else None."""
    if len(alive()) < 2:
        return None
    actor: Any = ray.remote(Courier)
    return actor.options(num_cpus=0, scheduling_strategy=this_node()).remote(job)


def alive() -> list[dict[str, Any]]:
    """The nodes that there are."""
    return [node for node in ray.nodes() if node["Alive"]]


def this_node() -> NodeAffinitySchedulingStrategy | None:
    """For what must be where this process is. In a placement group (a sweep's trial) that is where its children are by themselves, and
    these must stay in the group: so must theirs."""
    if ray.util.get_current_placement_group() is not None:
        return None
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def slots(layout: Layout) -> int:
    """How many actors there is room for on all nodes, if nobody else is there. No actor is on two."""
    found = 0
    for node in alive():
        there = node["Resources"]
        fits = int(there.get("CPU", 0.0) / layout.cpu + 1e-9)
        found += min(fits, int(there.get("GPU", 0.0) / layout.gpu + 1e-9)) if layout.gpu else fits
    return found


def spread() -> str | None:
    """How actors are dealt to nodes: evenly, but inside a placement group as that says."""
    return "SPREAD" if len(alive()) > 1 and ray.util.get_current_placement_group() is None else None


def check_shared(folder: Path, key: str) -> None:
    """Raises ConfigError, which blames the key, unless every node sees what this one writes into a folder. Leaves nothing behind."""
    others = [node for node in alive() if node["NodeID"] != ray.get_runtime_context().get_node_id()]
    if not others:
        return
    made = next((p for p in reversed([folder, *folder.parents]) if not p.exists()), None)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sign = folder / f".shared-{ray.get_runtime_context().get_worker_id()}"
    try:
        sign.touch()
        task: Any = ray.remote(num_cpus=0, max_retries=0)(Path.exists)
        asked = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(sign): node
            for node in others
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
        for one in done:  # who does not answer is told by the actors that start there
            if not _answer(one):
                raise unshared(folder, asked[one]["NodeManagerAddress"], key)
    finally:
        sign.unlink(missing_ok=True)
        if made is not None:
            _remove_empty(folder, made)


def unshared(folder: Path, node: str, key: str = "storage.private") -> Exception:
    """What is said where private state, or runs, could not be found again."""
    mend = f"node {node} does not see it: name one on a shared file system{', or an --out there' if key != '--out' else ''}"
    return expected(key, SHARED, str(folder), mend)


def _answer(one: Any) -> bool:
    try:
        return bool(ray.get(one))
    except RayError:
        return True  # the node has just gone


def _asked(call: Any) -> Any:
    return ray.get(call)


def _got(asked: Any) -> np.ndarray:
    return _asked(_asked(asked)[0])


def _remove_empty(folder: Path, top: Path) -> None:
    """Folders from this one up to `top`, which were made for the question alone."""
    with suppress(OSError):  # somebody has put something there meanwhile
        for path in (folder, *folder.parents):
            path.rmdir()
            if path == top:
                return
