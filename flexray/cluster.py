"""Starting a local Ray, or joining a running one, without a word from it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from shutil import disk_usage
from tempfile import gettempdir
from threading import current_thread, main_thread
from typing import Any

import ray
from ray.exceptions import RayError

from flexray.errors import expected
from flexray.sim import nodes
from flexray.sim.planning import apart
from flexray.sim.planning.measure import Ask
from flexray.sim.quiet import without_ray

PRELOAD = "torch,flexray.sim.host,transformers.models.auto.modeling_auto"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Imports while workers are idle, so that actors start sooner.
    "RAY_preload_python_modules": PRELOAD,
    # No record of every call, for a dashboard that is not there: Ray's own processes and ours would grow by it.
    "RAY_task_events_report_interval_ms": "0",
}
CLIENT = "ray://"
PROBE_SECONDS = 3.0
SESSION = 50 << 20
ROOM_SECONDS = 1800.0
"""To wait for what tasks measure, and before for room on the cluster."""


@contextmanager
def start(address: str | None = "local", *, verbose: bool = False, **local: Any) -> Iterator[dict[str, float]]:
    """Ray for the time of the block; gives the cluster's resources and `nodes`. A Ray that is running already is used and left alone.

    `local` are `ray.init`'s own options for a local start (num_cpus, …). Joining: `auto` or host:port; None: see `wanted`.
    """
    if ray.is_initialized():
        yield _resources()
        return
    address = wanted(address)
    if address.startswith(CLIENT):
        raise expected(
            "resources.address",
            "local, auto or host:port",
            address,
            "only `flexray simulate` goes there; start this on a node of it",
        )
    # Authentication is left to Ray, which turns tokens on for a local cluster: set here, its mode comes too late for `import ray`.
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address == "local":
        _check_room(Path(os.environ.get("RAY_TMPDIR") or gettempdir()))
    elif address != "auto":
        probe(address)
    options = dict(local, include_dashboard=False) if address == "local" else {}
    ending = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=logging.WARNING if verbose else logging.ERROR, **options)
    except (ConnectionError, RayError, RuntimeError) as e:
        reason = str(e).strip().splitlines()[0]
        raise expected("resources.address", "a running cluster", address, f"start one, or use local: {reason}") from None
    if callable(ending) and current_thread() is main_thread():
        signal.signal(signal.SIGTERM, ending)  # Ray's own would leave with another exit code, and without a word
    with without_ray(not verbose):
        try:
            yield _resources()
        finally:
            with nullcontext() if verbose else redirect_stdout(StringIO()):  # what Ray has held back to say it once
                _stop()


def wanted(address: str | None) -> str:
    """Where to go: as asked, or to the cluster that this process was started for."""
    named = os.environ.get("RAY_ADDRESS", "")
    there = named if named and not named.startswith(("http://", "https://")) else "local"  # those are for submitting jobs
    return address or there


def dead() -> list[str]:
    """Which of the processes of a Ray that was started here have died: then it answers late or never."""
    node = _node()
    return [str(name) for name, _ in node.dead_processes()] if node else []


def _stop() -> None:
    """Ends it. One that is broken already would be asked for minutes."""
    if dead() and (node := _node()):
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    ray.shutdown()


def _node() -> Any:
    """Ray's own idea of the processes that it started; there is no public one."""
    return getattr(sys.modules.get("ray._private.worker"), "_global_node", None)


def is_running() -> bool:
    """Whether this process is part of a Ray already."""
    return ray.is_initialized()


def answers(ask: Ask, processes: int) -> list[apart.Found]:
    """Measured by tasks on the cluster, each with an actor's share of a node; on a GPU by one of them."""
    layout = ask.job.layout
    # A process that has measured ends: it would keep the memory.
    task: Any = ray.remote(num_cpus=layout.cpu, num_gpus=layout.gpu, max_calls=1, max_retries=0)(_answered)
    courier = nodes.courier_for(ask.job)
    tasks = [task.remote(ask, courier) for _ in range(1 if layout.gpu else processes)]
    _, late = ray.wait(tasks, num_returns=len(tasks), timeout=ROOM_SECONDS)
    for one in late:
        ray.cancel(one, force=True)
    return [["the cluster had no room for it in time"]] if late else [_got(one) for one in tasks]


def _answered(ask: Ask, courier: Any) -> apart.Found:
    return list(apart.answered(replace(ask, job=nodes.supplied(ask.job, courier))))


def _got(task: Any) -> apart.Found:
    try:
        return ray.get(task)
    except RayError as e:
        return [f"{type(e).__name__}: {str(e).strip().splitlines()[0]}"]


def _resources() -> dict[str, float]:
    """The cluster's resources, and under `nodes` how many nodes it has that work."""
    working = [node for node in nodes.alive() if node["Resources"].get("CPU")]
    return ray.cluster_resources() | {"nodes": float(len(working) or 1)}


def _check_room(folder: Path) -> None:
    """Where its session has no place, Ray fails without a word of it."""
    free = disk_usage(folder).free if folder.is_dir() else 0
    if free < SESSION:
        wanted = f"a folder with {SESSION >> 20} MB to spare, for Ray's session"
        raise expected("TMPDIR", wanted, f"{folder} with {free >> 20}", "make room there, or set TMPDIR to another")


def probe(address: str) -> None:
    """A dead address makes `ray.init` hang for minutes; asking the port first takes no time."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    try:
        if not port.isdigit():
            raise ValueError("it ends in no port")
        socket.create_connection((host, int(port)), PROBE_SECONDS).close()
    except (OSError, ValueError, OverflowError) as e:
        raise expected(
            "resources.address", "local, auto, host:port or ray://host:port of a running cluster", address, f"check it: {e}"
        ) from None
