"""Ray's client actors, by their places. Who dies is replaced; what Ray says of it becomes our own words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from flexray.errors import ConfigError, RunError
from flexray.sim import holding, turns
from flexray.sim.crews import Died
from flexray.sim.host import ClientHost
from flexray.sim.job import Job

START_SECONDS = 300.0
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

    def __init__(self, job: Job):
        self.job, self.lives = job, [0] * job.layout.actors
        self._dead: list[int] = []
        self._ids: dict[str, tuple[int, int]] = {}
        _end_others(job.private)
        # A name of its own, so that who is started late by another driver finds no place here.
        self._marks = job.private / f"{MARKS}-{uuid4().hex[:8]}"
        self._marks.mkdir(parents=True, mode=0o700)
        # No task retries: Ray would re-run the call on a fresh object. No restarts: calls of before and after would look alike.
        actor: Any = ray.remote(ClientHost)
        self._actor = actor.options(num_cpus=job.layout.cpu, num_gpus=job.layout.gpu, max_restarts=0, max_task_retries=0)
        self._shared = ray.put(job)
        self.hosts: list[Any] = [None] * job.layout.actors
        try:
            for a in range(job.layout.actors):
                self._start(a)
            self._up = [host.ready.remote() for host in self.hosts]
            self._ready()
        except BaseException:
            self.close()
            raise

    def wait(self, calls: list[Any], seconds: float) -> Any | None:
        done, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        return done[0] if done else None

    def get(self, call: Any) -> Any:
        try:
            return ray.get(call, timeout=FETCH_SECONDS)
        except RayError as e:
            raise self._died(e) from e

    def replace(self, dead: Died) -> None:
        a = dead.actor
        self._dead += self._pid(a)
        self.stop(a)
        self.lives[a] += 1
        self._start(a)
        self._up[a] = self.hosts[a].ready.remote()

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
        for pid in self._dead:
            for unfinished in self.job.private.glob(f"*/.{pid}.tmp"):
                unfinished.unlink(missing_ok=True)

    def _pid(self, a: int) -> list[int]:
        """The process at a place, if it ever was up."""
        with suppress(RayError):
            return [ray.get(self._up[a], timeout=0)]
        return []

    def _start(self, a: int) -> None:
        self.hosts[a] = self._actor.remote(self._shared, behind=True, tells=True, mark=self._file(a))
        self._ids[self.hosts[a]._actor_id.hex()] = a, self.lives[a]

    def _ready(self) -> None:
        """All are up; who is killed while it starts is replaced, as later."""
        for a in range(len(self.hosts)):
            while not self._is_up(a):
                self.replace(Died(a, self.lives[a], ""))

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
        return Died(a, life, reason(e), "died", clients)

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
