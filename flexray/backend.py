"""Where a run happens: in this process, on a Ray of its own, on a cluster that is joined, or all of it elsewhere.

Ray is imported only where it is used: `resources.backend: inline` works where it is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from flexray.config import Experiment, Resources
from flexray.sim.events import Event
from flexray.sim.job import Job
from flexray.sim.planning import apart
from flexray.sim.planning.layout import available
from flexray.sim.planning.settle import Far, Trials
from flexray.sim.pool import InlinePool
from flexray.sim.run import run

T = TypeVar("T")


@contextmanager
def joined(x: Experiment, verbose: bool) -> Iterator[dict[str, float]]:
    """What there is to run on: a running cluster's resources, or this machine's. A local Ray is not started yet, so that
    wrong input is told at once."""
    if _on_cluster(x.resources):
        from flexray import cluster

        with cluster.start(x.resources.address, verbose=verbose) as there:
            yield there
    else:
        import torch

        yield available(torch.cuda.device_count())


def trials(x: Experiment, far: Far) -> Trials:
    """Measuring where the actors will be: on the cluster that is joined, or here."""
    if _is_running(x.resources):
        from flexray import cluster

        return Trials(far, cluster.answers)
    return Trials(far, apart.here)


def check_shared(resources: Resources, folder: Path, key: str) -> None:
    """Raises ConfigError, which blames the key, unless all nodes of a cluster that is joined see the folder."""
    if _is_running(resources):
        from flexray.sim import nodes

        nodes.check_shared(folder, key)


def events(job: Job, path: Path, resume: bool, there: Mapping[str, float], verbose: bool, grows: bool) -> Iterator[Event]:
    """The run's. grows: nodes that come may be used too."""
    if job.experiment.resources.backend == "inline":
        yield from run(job, InlinePool, path, resume)
        return
    from flexray import cluster
    from flexray.sim import actors

    # Ray starts a worker for each CPU that it knows of: those that no actor becomes would only take memory.
    cpus, grows = ceil(job.layout.actors * job.layout.cpu), grows and cluster.is_running()
    with cluster.start("local", verbose=verbose, num_cpus=cpus, num_gpus=int(there.get("GPU", 0))):
        yield from actors.simulate(job, path.absolute(), resume, cluster.dead, grows)


def is_afar(resources: Resources) -> bool:
    """Whether all of it is to happen on a cluster that this machine is no part of."""
    if resources.backend == "inline":
        return False
    from flexray import cluster

    return cluster.wanted(resources.address).startswith(cluster.CLIENT) and not cluster.is_running()


def afar(resources: Resources, what: Callable[[Callable[[Any], None]], T], say: Callable[[Any], None]) -> T:
    """A call there; see `afar.call`."""
    from flexray import afar

    return afar.call(resources.address, what, say)


def _is_running(resources: Resources) -> bool:
    if resources.backend == "inline":
        return False
    from flexray import cluster

    return cluster.is_running()


def _on_cluster(resources: Resources) -> bool:
    """Whether a cluster is there already, or is to be joined."""
    if resources.backend == "inline":
        return False
    from flexray import cluster

    return cluster.is_running() or cluster.wanted(resources.address) != "local"
