"""A call on a cluster that this machine is no part of: everything happens there, and what it says comes here (ray://, Ray's client)."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from queue import Empty, Queue
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import RayError, RayTaskError

from flexray import cluster
from flexray.errors import ConfigError, RunError, expected

T = TypeVar("T")
Say = Callable[[Any], None]
HEAD = {"node:__internal_head__": 0.001}
"""What only the head has, by Ray itself: the run's folder is there, wherever Ray has room."""
SECONDS = 2.0
"""To wait there for something to be said."""


class Afar:
    """An actor on the cluster's head, which makes one call."""

    def __init__(self) -> None:
        self._said: Queue[Any] = Queue()

    def call(self, what: Callable[[Say], Any]) -> Any:
        """Makes it; what it says can be asked for meanwhile."""
        return what(self._said.put)

    def said(self) -> list[Any]:
        """All that it has said since the last time; waits a little for the first word."""
        told = []
        try:
            told.append(self._said.get(timeout=SECONDS))
            while True:
                told.append(self._said.get_nowait())
        except Empty:
            return told


def call(address: str | None, what: Callable[[Say], T], say: Say) -> T:
    """What the call gives there. Raises ConfigError and RunError as it did, or where the cluster does not answer."""
    there = cluster.wanted(address)
    cluster.probe(there)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Ray Client connection timed out")  # which is raised, too
            ray.init(there, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RayError, RuntimeError, ImportError, ValueError) as e:
        reason = str(e).strip().splitlines()[0]
        raise expected("resources.address", "a cluster with Ray's client server", there, f"check it: {reason}") from e
    try:
        actor: Any = ray.remote(Afar)
        far = actor.options(num_cpus=0, max_concurrency=2, resources=HEAD).remote()
        over = far.call.remote(what)
        while not ray.wait([over], timeout=0)[0]:
            for event in ray.get(far.said.remote()):
                say(event)
        for event in ray.get(far.said.remote()):
            say(event)
        return cast(T, ray.get(over))
    except RayTaskError as e:
        raise e.cause if isinstance(e.cause, (ConfigError, RunError)) else RunError(f"on the cluster: {e.cause!r}") from e
    except (RayError, ConnectionError) as e:
        raise RunError(f"the cluster does not answer any more: {str(e).strip().splitlines()[0]}") from e
    finally:
        ray.shutdown()
