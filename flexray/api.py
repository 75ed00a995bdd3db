"""The Python API: an experiment in, a run out."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml

from flexray import backend, folder
from flexray.backend import joined
from flexray.config import Experiment, Resources
from flexray.errors import ConfigError, RunError, did_you_mean, expected
from flexray.sim import checkpoint, holding, run_files
from flexray.sim.events import Event, Finished
from flexray.sim.job import Job
from flexray.sim.planning.places import possible
from flexray.sim.planning.plan import Plan, prepare, resolved
from flexray.sim.planning.settle import Far
from flexray.sim.private.sealed import seal_of
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
    path, say = Path(out) if out else new_folder(experiment), watch or (lambda _: None)
    if backend.is_afar(experiment.resources):
        return backend.afar(experiment.resources, partial(_simulate, experiment, _whole(path), resume), say)
    _check_folder(path, resume)
    grows = there is None
    with nullcontext(there) if there else joined(experiment, verbose) as there, ExitStack() as held:
        job, plan = prepare(experiment, there, path.absolute() / "private", backend.trials(experiment, "choices"))
        trackers = chosen(job.experiment)
        say(plan)
        _check_storage(job, path, resume)
        held.enter_context(holding.alone(path, "--resume" if resume else "--out", patience=holding.END_SECONDS))
        _check_folder(path, resume)  # once more: meanwhile somebody may have begun there
        _open_folder(path, job, plan)
        done: Run | None = None
        try:
            with Tracking(trackers, path, resolved(job).spec()) as track:
                for event in backend.events(job, path, resume, there, verbose, grows):
                    track(event)
                    say(event)
                    if isinstance(event, Finished):  # the last one; the run still puts away what it needed
                        done = Run(path, event.summary)
        except RunError as e:
            raise RunError(f"{e}\nWhat was finished is kept: go on with `flexray simulate --resume {path}`") from e
    assert done is not None, "the run ended without a summary"
    return done


def resume(path: Path | str, watch: Watch | None = None, verbose: bool = False, address: str | None = None) -> Run:
    """Go on with a run that stopped, from its last finished round or from its checkpoints, to the same result as without the stop.

    address: of the cluster to go on on, if that is another one now.
    """
    if backend.is_afar(Resources(address=address)):
        return backend.afar(Resources(address=address), partial(_resume, path), watch or (lambda _: None))
    path = opened(path)
    x = run_files.experiment(path)
    if address:
        x = x.model_copy(update={"resources": x.resources.model_copy(update={"address": address})})
    return simulate(x, path, resume=True, watch=watch, verbose=verbose)


def opened(path: Path | str, out: Path | None = None, address: str | None = None) -> Path:
    """The run folder to go on in: this one, or where `path` has a run's checkpoints, `out` (by default runs/NAME), made again from the
    newest. Raises ConfigError."""
    from flexray.sim import restore

    if backend.is_afar(Resources(address=address)):
        return backend.afar(Resources(address=address), partial(_opened, _whole(Path(path)), out and _whole(out)), print)
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
        return prepare(experiment, there, Path("private"), backend.trials(experiment, far))[1]


def new_folder(experiment: Experiment) -> Path:
    """`runs/<time>-<algorithm>-<seed>`, with a number behind it if that is taken."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{Path(experiment.algorithm.name).stem}-s{experiment.seed}"
    path, n = Path("runs") / name, 1
    while path.exists():
        path, n = Path("runs") / f"{name}-{n}", n + 1
    return path


def _simulate(experiment: Experiment, path: Path, resume: bool, say: Watch) -> Run:
    return simulate(experiment, path, resume=resume, watch=say)


def _resume(path: Path | str, say: Watch) -> Run:
    return resume(path, say)


def _opened(path: Path, out: Path | None, say: Watch) -> Path:
    return opened(path, out)


def _whole(path: Path) -> Path:
    """A run folder's path, which must mean the same on another machine."""
    if not path.is_absolute():
        raise expected("--out", "a whole path with ray://, as the run's folder is on the cluster", str(path), "begin it with /")
    return path


def _check_folder(path: Path, resume: bool) -> None:
    if os.path.isfile(path):
        raise ConfigError(f"--out: expected a folder, got the file {str(path)!r}; name another")
    possible(path, "--out")
    if not resume and path.exists() and any(path.iterdir()):
        raise ConfigError(
            f"--out: expected a new or empty folder, got {str(path)!r}, which is not; name another, or use --resume"
        )


def _check_storage(job: Job, path: Path, resume: bool) -> None:
    storage = job.experiment.storage
    seal_of(storage.key)
    if storage.private is not None and not resume and job.private.exists() and any(job.private.iterdir()):
        mend = "private state is there already: name another, or go on with the run whose it is"
        raise expected("storage.private", "a folder of this run alone", str(job.private), mend)
    backend.check_shared(job.experiment.resources, job.private, "storage.private")
    if storage.checkpoint is not None:
        checkpoint.check(storage.checkpoint, path, resume)


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
