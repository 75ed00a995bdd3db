"""Ray's client actors, by their places. Who dies is replaced; what Ray says of it becomes our own words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from flexray.errors import ConfigError, RunError
from flexray.sim import holding, nodes, supplies, turns
from flexray.sim.crews import Died
from flexray.sim.job import Job

START_SECONDS = 300.0
BRINGING = 20e6
"""Bytes of the cache that a node is brought in a second, at the least."""
LATE_SECONDS = 20.0
"""If so long after the last one no further actor is up, the run begins: who is still to come finds its place vacant."""
LOOK_SECONDS = 2.0
"""Between looking whether nodes have come."""
FETCH_SECONDS = 600.0
"""For what is there already to come from another node."""
CLOSE_SECONDS = 10.0
"""For actors that were killed to be gone."""
MARKS = ".actors"
"""Beginning of the name of the folder in which each actor has a file, locked as long as it lives."""
REASONS = {
    "memory": "Ray ended its process, as memory ran low",
    "node": "its node is gone",
    "init_failed": "its process could not start",
    "process": "its process died: killed, out of memory, or crashed",
}


class Crew:
    """See `crews.Crew`."""

    def __init__(self, job: Job, grows: bool = False):
        """grows: more actors are started where nodes come, see `grow`."""
        self.job, self.lives = job, [0] * job.layout.actors
        self.opening: dict[int, Any] = {}
        self._grows, self._looked = grows, perf_counter()
        self._at: dict[int, tuple[str, str]] = {}
        self._dead: list[str] = []
        self._ids: dict[str, tuple[int, int]] = {}
        _end_others(job.private)
        # A name of its own, so that who is started late by another driver finds no place here.
        self._marks = job.private / f"{MARKS}-{uuid4().hex[:8]}"
        self._marks.mkdir(parents=True, mode=0o700)
        # No task retries: Ray would re-run the call on a fresh object. No restarts: calls of before and after would look alike.
        self._options = {"num_cpus": job.layout.cpu, "num_gpus": job.layout.gpu, "max_restarts": 0, "max_task_retries": 0}
        self._shared, self._courier = ray.put(job), None
        self.hosts: list[Any] = [None] * job.layout.actors
        self._up: list[Any] = [None] * job.layout.actors
        try:
            for a in range(job.layout.actors):
                self._start(a)
            self._ready()
        except BaseException:
            self.close()
            raise

    def grow(self, most: int) -> None:
        """Places for more actors, up to so many in all, if nodes have come that have room for them."""
        if not self._grows or len(self.lives) >= most or perf_counter() - self._looked < LOOK_SECONDS:
            return
        self._looked = perf_counter()
        for a in range(len(self.lives), min(most, nodes.slots(self.job.layout))):
            self.lives.append(0)
            self.hosts.append(None)
            self._up.append(None)
            self._start(a)

    def wait(self, calls: list[Any], seconds: float) -> Any | None:
        done, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        return done[0] if done else None

    def get(self, call: Any) -> Any:
        try:
            return ray.get(call, timeout=FETCH_SECONDS)
        except RayError as e:
            raise self._died(e) from e

    def nodes(self) -> list[str]:
        """Where the actor of each place is, by Ray's name of the node; "" for a vacant one."""
        for a, up in enumerate(self._up):
            if a not in self.opening and a not in self._at:
                self._at[a] = ray.get(up)
        return [self._at[a][1] if a in self._at else "" for a in range(len(self._up))]

    def replace(self, dead: Died) -> None:
        a = dead.actor
        with suppress(RayError):  # it may never have been up
            self._dead.append(ray.get(self._up[a], timeout=0)[0])
        self._at.pop(a, None)
        self.stop(a)
        self.lives[a] += 1
        self._start(a)

    def stop(self, actor: int) -> None:
        with suppress(RayError):
            ray.kill(self.hosts[actor])

    def close(self) -> None:
        for a, host in enumerate(self.hosts):
            if host is not None:
                self.stop(a)
        gone = self._marks.with_name(f"{self._marks.name}.gone")
        with suppress(OSError):
            self._marks.rename(gone)  # at once, so that who is still starting finds no place for a new one
        holding.gone(gone.iterdir() if gone.exists() else (), CLOSE_SECONDS)
        rmtree(gone, ignore_errors=True)
        for process in self._dead:
            for unfinished in self.job.private.glob(f"*/.{process}.tmp"):
                unfinished.unlink(missing_ok=True)

    def _start(self, a: int) -> None:
        if self._courier is None:
            self._courier = nodes.courier_for(self.job)
        actor: Any = ray.remote(nodes.ClientHost)
        host = actor.options(**self._options, scheduling_strategy=nodes.spread())
        self.hosts[a] = host.remote(self._shared, self._file(a), self._courier)
        self._ids[self.hosts[a]._actor_id.hex()] = a, self.lives[a]
        self._up[a] = self.opening[a] = self.hosts[a].up.remote()

    def _ready(self) -> None:
        """Returns when all are up, or some are and no more come; who is killed while it starts is replaced, as later. Raises what keeps
        one from starting."""
        patience = seconds = START_SECONDS + (supplies.weight(self.job) / BRINGING if self._courier else 0)
        while self.opening:
            done, _ = ray.wait(list(self.opening.values()), num_returns=1, timeout=seconds)
            if not done:
                break
            a = next(a for a, up in self.opening.items() if up == done[0])
            if self._is_up(a):
                del self.opening[a]
                seconds = LATE_SECONDS
            else:
                self.replace(Died(a, self.lives[a], ""))
        if len(self.opening) == len(self.lives):
            raise RunError(
                f"no client actor could be started in {patience:.0f} s; is there no node with "
                f"{self.job.layout.cpu:g} CPUs {f'and {self.job.layout.gpu:g} GPUs ' if self.job.layout.gpu else ''}free?"
            )

    def _is_up(self, a: int) -> bool:
        try:
            ray.get(self._up[a], timeout=START_SECONDS)
        except RayError as e:
            killed = isinstance(e, RayActorError) and not getattr(e, "actor_init_failed", False)
            if killed and sum(self.lives) < self.job.experiment.faults.restarts:
                return False
            raise _ours(e) or RunError(f"a client actor failed to start: {reason(e)}") from e
        return True

    def _died(self, e: RayError) -> Exception:
        """What a failed call means: an error of the run's, or that somebody died."""
        if isinstance(e, RayTaskError) and not isinstance(e, RayActorError) and not isinstance(e.cause, RayError):
            return _ours(e) or RunError(f"a client actor failed: {e.cause!r}")
        a, life = self._ids.get(getattr(e, "actor_id", None) or "", (-1, 0))
        if a < 0 or self.lives[a] != life:
            return Died(a, life, reason(e))
        file = self._file(a)
        where, clients = turns.where_late(file), turns.turn_of(file)
        if where is not None:
            return Died(a, life, f"took longer than `faults.client_seconds` allows; it was at {where}", "late", clients)
        why = reason(e)
        if why == REASONS["node"]:
            return Died(a, life, why, "gone")  # whoever had a turn there
        return Died(a, life, why, "died", clients)

    def _file(self, a: int) -> Path:
        return self._marks / f"{a}.{self.lives[a]}"


def _end_others(private: Path) -> None:
    """Waits until the actors of a driver that is dead are dead, too. Raises RunError."""
    for folder in private.glob(f"{MARKS}*"):
        if not holding.gone(folder.iterdir()):
            raise RunError(
                f"client actors of before, which have files in {folder} locked, are still alive; wait until they have ended"
            )
        rmtree(folder, ignore_errors=True)


def reason(e: RayError) -> str:
    """Why an actor died, in few words."""
    text = str(e)
    if getattr(e, "actor_init_failed", False):
        return f"{REASONS['init_failed']}: {_cause(text)}"
    if "running low on memory" in text or "OutOfMemory" in text:
        return REASONS["memory"]
    if "node died" in text.lower() or "its node has died" in text.lower() or "node was terminated" in text.lower():
        return REASONS["node"]
    return REASONS["process"] if isinstance(e, ActorDiedError) else first_line(e)


def first_line(e: BaseException) -> str:
    return f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"


def _cause(text: str) -> str:
    """The last line of a traceback in Ray's text, which is the error itself."""
    return text.strip().splitlines()[-1].strip() if text.strip() else "no reason given"


def _ours(e: BaseException) -> Exception | None:
    """An error of our own, as it was raised in an actor."""
    cause = getattr(e, "cause", None)
    return cause if isinstance(cause, (ConfigError, RunError)) else None
