"""The Python API: an experiment in, a run out."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any, Literal

import yaml

from flexray import folder
from flexray.config import Experiment
from flexray.errors import ConfigError, RunError, did_you_mean, expected
from flexray.sim import checkpoint, holding, run_files
from flexray.sim.events import Event, Finished
from flexray.sim.job import Job
from flexray.sim.planning import apart
from flexray.sim.planning.layout import available
from flexray.sim.planning.places import possible
from flexray.sim.planning.plan import Plan, prepare, resolved
from flexray.sim.planning.settle import Far, Trials
from flexray.sim.pool import InlinePool
from flexray.sim.private.sealed import seal_of
from flexray.sim.run import run
from flexray.sim.run_folder import RunFolder, Table
from flexray.sim.tables import table
from flexray.tracking import Tracking, chosen

VERSIONED = ("flexray", "ray", "torch", "transformers", "datasets", "pyarrow", "numpy", "safetensors", "tokenizers")
TABLES = ("rounds", "clients", "evaluations", "rows", "bytes", "inside", "turns")
Watch = Callable[[Plan | Event], None]


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    summary: dict[str, Any]

    def rounds(self) -> Table:
        """One row per round: loss, tokens, bytes, seconds."""
        return RunFolder(self.path).table("rounds")

    def clients(self) -> Table:
        """One row per scored client, round, view and metric."""
        return RunFolder(self.path).table("clients")

    def bytes(self) -> Table:
        """What crossed: one row per round (−1: before the first), client, direction and role (a part, or auxiliary state)."""
        return RunFolder(self.path).table("bytes")

    def inside(self) -> Table:
        """Inside the clients' own models: one row per evaluated round, client and MoE block, as `models/inside.py` says."""
        return RunFolder(self.path).table("inside")

    def turns(self) -> Table:
        """On the simulated clock: one row per round and client that was asked, and what became of it; none where there is no clock."""
        return RunFolder(self.path).table("turns")

    def table(self, name: str, kind: Literal["arrow", "pandas"] = "arrow") -> Any:
        """`rounds`, `clients`, `evaluations`, `rows`, `bytes`, `inside` or `turns` as a table of pyarrow or pandas."""
        if name not in TABLES:
            raise expected("table", "the name of a table", name, did_you_mean(name, TABLES))
        return table(RunFolder(self.path).table(name), kind)


def simulate(
    experiment: Experiment,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    verbose: bool = False,
    there: Mapping[str, float] | None = None,
) -> Run:
    """Run it. `watch` is called with the plan and then with every event. there: resources (`CPU`, `GPU`) to stay within; unset, all.

    Raises ConfigError before anything is written, RunError for a run that failed; what it finished is kept, and
    `resume=True` on the same folder goes on from there.
    """
    path = Path(out) if out else new_folder(experiment)
    _check_folder(path, resume)
    say = watch or (lambda _: None)
    with nullcontext(there) if there else joined(experiment, verbose) as there, ExitStack() as held:
        job, plan = prepare(experiment, there, path.absolute() / "private", _trials(experiment, "choices"))
        trackers = chosen(job.experiment)
        say(plan)
        seal_of((storage := job.experiment.storage).key)
        held.enter_context(holding.alone(path, "--resume" if resume else "--out", patience=holding.END_SECONDS))
        _check_folder(path, resume)  # once more: meanwhile somebody may have begun there
        if storage.checkpoint is not None:
            checkpoint.check(storage.checkpoint, path, resume)
        _open_folder(path, job, plan)
        done: Run | None = None
        try:
            with Tracking(trackers, path, resolved(job).spec()) as track:
                for event in _events(job, path, resume, there, verbose):
                    track(event)
                    say(event)
                    if isinstance(event, Finished):  # the last one; the run still puts away what it needed
                        done = Run(path, event.summary)
        except RunError as e:
            raise RunError(f"{e}\nWhat was finished is kept: go on with `flexray simulate --resume {path}`") from e
    assert done is not None, "the run ended without a summary"
    return done


def resume(path: Path | str, watch: Watch | None = None, verbose: bool = False) -> Run:
    """Go on with a run that stopped, from its last finished round or from its checkpoints, to the same result as without the stop."""
    path = opened(path)
    return simulate(run_files.experiment(path), path, resume=True, watch=watch, verbose=verbose)


def opened(path: Path | str, out: Path | None = None) -> Path:
    """The run folder to go on in: this one, or where `path` has a run's checkpoints, `out` (by default runs/NAME), made again from the
    newest. Raises ConfigError."""
    from flexray.sim import restore

    if restore.is_checkpoint(str(path)):
        folder = out or Path("runs") / Path(path).name
        restore.fetch(str(path), folder)
        return folder
    if not (Path(path) / "config.yaml").exists():
        raise expected(
            "--resume", "the folder of a run, or of its checkpoints", str(path), "name one that has config.yaml or after-….json"
        )
    if out:
        raise ConfigError(f"--out: expected none with --resume of a run folder, got {str(out)!r}; a run goes on where it is")
    return Path(path)


def load_run(path: Path | str) -> Run:
    """A finished run from its folder."""
    file = Path(path) / "summary.json"
    if not file.exists():
        raise ConfigError(
            f"run: expected the folder of a finished run, got {str(path)!r} without summary.json; resume it first"
        )
    return Run(Path(path), run_files.summary(file.parent))


def make_plan(experiment: Experiment, far: Far = "choices") -> Plan:
    """The plan without the run. far: how far to measure for it; only a `forecast` tells how long the run will take."""
    with joined(experiment, False) as there:
        return prepare(experiment, there, Path("private"), _trials(experiment, far))[1]


def new_folder(experiment: Experiment) -> Path:
    """`runs/<time>-<algorithm>-<seed>`, with a number behind it if that is taken."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{Path(experiment.algorithm.name).stem}-s{experiment.seed}"
    path, n = Path("runs") / name, 1
    while path.exists():
        path, n = Path("runs") / f"{name}-{n}", n + 1
    return path


@contextmanager
def joined(x: Experiment, verbose: bool) -> Iterator[dict[str, float]]:
    """What there is to run on: a running cluster's resources, or this machine's. A local Ray is not started yet, so that
    wrong input is told at once."""
    if _on_ray(x, x.resources.address != "local"):
        from flexray import cluster

        with cluster.start(x.resources.address, verbose=verbose) as there:
            yield there
    else:
        import torch

        yield available(torch.cuda.device_count())


def _trials(x: Experiment, far: Far) -> Trials:
    """Measuring where the actors will be: on the cluster that is joined, or here."""
    if _on_ray(x):
        from flexray import cluster

        return Trials(far, cluster.answers)
    return Trials(far, apart.here)


def _on_ray(x: Experiment, joining: bool = False) -> bool:
    """Whether a cluster is there already, or is to be joined. Without Ray's backend Ray need not even be installed."""
    if x.resources.backend == "inline":
        return False
    from flexray import cluster

    return joining or cluster.is_running()


def _events(job: Job, path: Path, resume: bool, there: Mapping[str, float], verbose: bool) -> Iterator[Event]:
    if job.experiment.resources.backend == "inline":
        yield from run(job, InlinePool, path, resume)
        return
    from flexray import cluster
    from flexray.sim import actors

    # Ray starts a worker for each CPU that it knows of: those that no actor becomes would only take memory.
    cpus = ceil(job.layout.actors * job.layout.cpu)
    with cluster.start("local", verbose=verbose, num_cpus=cpus, num_gpus=int(there.get("GPU", 0))):
        yield from actors.simulate(job, path.absolute(), resume, cluster.dead)


def _check_folder(path: Path, resume: bool) -> None:
    if os.path.isfile(path):
        raise ConfigError(f"--out: expected a folder, got the file {str(path)!r}; name another")
    possible(path, "--out")
    if not resume and path.exists() and any(path.iterdir()):
        raise ConfigError(
            f"--out: expected a new or empty folder, got {str(path)!r}, which is not; name another, or use --resume"
        )


def _open_folder(path: Path, job: Job, plan: Plan) -> None:
    """The files that are there from the start. Raises ConfigError where a resumed run would get other rows than it began with."""
    run_files.check_whole(path)
    known, digests = path / "clients.json", [c.digest() for c in plan.clients]
    if known.exists() and digests != [c["rows_sha256"] for c in run_files.clients(path)]:
        raise ConfigError(
            "data: expected the rows that the run was begun with, got others; put the data and the partition's file back, "
            "or use a new --out"
        )
    path.mkdir(parents=True, exist_ok=True)
    files = RunFolder(path)
    files.write_text("config.yaml", yaml.safe_dump(resolved(job).spec(), sort_keys=False, allow_unicode=True))
    files.write_json("versions.json", _versions(job))
    clients = [
        {
            "client": c.name,
            **{split: len(getattr(c, split)) for split in ("train", "valid", "test")},
            "dropped": c.dropped,
            "labels": c.labels,
            "rows_sha256": digest,
        }
        for c, digest in zip(plan.clients, digests, strict=True)
    ]
    files.write_json("clients.json", clients)


def _versions(job: Job) -> dict[str, Any]:
    packages = {name: version(name) for name in VERSIONED}
    plugins = {name: folder.digest(text) for name, text in job.experiment.plugins.items()}
    return {"python": platform.python_version(), "machine": platform.machine(), "packages": packages, "files_sha256": plugins}
