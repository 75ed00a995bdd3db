"""Methods × seeds on one config: the runs, side by side or one after another, and their comparison.

A comparison's folder holds compare.yaml (what was asked for), runs/<label>-s<seed>/ (run folders like any other) and the
tables. A run is finished when its summary.json is there, so whatever stopped a comparison, it goes on from its folder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from flexray import api, backend
from flexray.comparison.events import Begun, Done, Event, Rounds
from flexray.comparison.folder import begun_with, check_folder, check_runs, run_of
from flexray.comparison.samples import finished
from flexray.comparison.spec import Cell, Spec
from flexray.comparison.table import Comparison, assemble
from flexray.config import Experiment
from flexray.errors import ConfigError, RunError, expected
from flexray.report import papers
from flexray.report.messages import keep_traceback
from flexray.sim import run_files
from flexray.sim.events import RoundDone
from flexray.sim.planning.plan import Plan
from flexray.sim.run_folder import RunFolder

Watch = Callable[[Event], None]
POLL_SECONDS = 1.0


def compare(
    spec: Spec, out: Path | str, *, resume: bool = False, jobs: int | None = None, watch: Watch | None = None, verbose: bool = False
) -> Comparison:  # fmt: skip
    """Run what is not finished, compare, and write the tables into the folder `out`.

    `jobs` runs go side by side, each in a process of its own on the cluster; 1: one after another, the clients of each
    spread over the cluster; unset, whichever fills it. A run that fails is among the comparison's `failures` and keeps no
    other from going on. With `resume`, finished runs are not run again and half-finished ones go on; a spec that would
    change one of them is refused, while methods, seeds and what concerns the table alone may be added. Raises ConfigError
    before anything is written, RunError where no run could be finished.
    """
    path, say = Path(out), watch or (lambda _: None)
    with api.joined(spec.cells[0].experiment, verbose) as there:
        check_folder(spec, path, resume)
        plan = check_runs(spec)
        left = [cell for cell in spec.cells if not (run_of(path, cell) / "summary.json").exists()]
        jobs = _jobs(plan, there, len(left), jobs)
        if jobs > 1:
            backend.check_shared(plan.experiment.resources, path.absolute(), "--out")
        RunFolder(_made(path)).write_text("compare.yaml", yaml.safe_dump(spec.dump(), sort_keys=False, allow_unicode=True))
        say(Begun(tuple(left), len(spec.cells) - len(left), jobs))
        ways = _side_by_side if jobs > 1 else _in_turn
        failures = ways(left, path, plan, there, jobs, say, verbose) if left else {}
    return so_far(spec, path, failures)


def so_far(spec: Spec, out: Path | str, failures: Mapping[str, str] | None = None) -> Comparison:
    """The comparison of what is finished; its tables are written too. Runs nothing."""
    path, failures = Path(out), failures or {}
    found = [run for cell in spec.cells if (run := finished(cell, run_of(path, cell), spec.compare.view))]
    if not found:
        raise RunError("\n".join((f"no run of {path} is finished", *(f"{name}: {why}" for name, why in failures.items()))))
    made = assemble(spec, found, failures)
    papers.write(made, path)
    return made


def new_folder() -> Path:
    """`runs/<time>-compare`."""
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-compare"


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _jobs(plan: Plan, there: Mapping[str, float], left: int, asked: int | None) -> int:
    """How many runs go side by side: as many as there is room for, unless the clients of one run would fill more of it."""
    layout = plan.layout
    room = int(there["CPU"] / layout.cpu + 1e-9)
    room = min(room, int(there.get("GPU", 0) / layout.gpu + 1e-9)) if layout.gpu else room
    if plan.experiment.resources.backend == "inline":
        if asked not in (None, 1):
            raise expected("--jobs", "1 with `resources.backend: inline`", asked, "drop one of the two")
        return 1
    if asked is not None:
        if not 1 <= asked <= room:
            raise expected(
                "--jobs", f"1 to {room} (runs that there is room for at once)", asked, "leave it out to use the room"
            )
        return asked
    return min(left, room) if left >= min(plan.cohort, room) else 1


def _in_turn(
    left: Sequence[Cell], path: Path, plan: Plan, there: Mapping[str, float], jobs: int, say: Watch, verbose: bool
) -> dict[str, str]:
    """One run after another in this process; gives what went wrong, by run."""

    def play(cell: Cell) -> str | None:
        def told(event: Any) -> None:
            if isinstance(event, RoundDone):
                say(Rounds(cell, event.report.round + 1))

        return _play(cell, cell.experiment, run_of(path, cell), told, verbose)

    if plan.experiment.resources.backend == "inline":
        return _told(((cell, play(cell)) for cell in left), path, say)
    with _local(there, verbose):
        return _told(((cell, play(cell)) for cell in left), path, say)


def _side_by_side(
    left: Sequence[Cell], path: Path, plan: Plan, there: Mapping[str, float], jobs: int, say: Watch, verbose: bool
) -> dict[str, str]:
    """So many runs at once, each in one process without actors of its own; gives what went wrong, by run."""
    with _local(there, verbose):
        return _told(_tasks(left, path.absolute(), plan, jobs, say), path, say)


def _tasks(left: Sequence[Cell], path: Path, plan: Plan, jobs: int, say: Watch) -> Iterator[tuple[Cell, str | None]]:
    """Every run with what went wrong, as they end."""
    import ray
    from ray.exceptions import RayError

    task = ray.remote(_play_alone).options(num_cpus=plan.layout.cpu, num_gpus=plan.layout.gpu, max_retries=0)
    waiting, running = deque(left), dict[Any, Cell]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.popleft()
                running[task.remote(cell, run_of(path, cell), Path.cwd())] = cell
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for ref in done:
                try:
                    yield running[ref], ray.get(ref)
                except RayError as e:
                    yield running[ref], f"its process failed: {type(e).__name__}: {str(e).strip().splitlines()[0]}"
                del running[ref]
            for cell in running.values():
                say(Rounds(cell, len(RunFolder(run_of(path, cell)).table("rounds"))))
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _local(there: Mapping[str, float], verbose: bool) -> Any:
    """The cluster that is joined already, or a local one."""
    from flexray import cluster

    return cluster.start("local", verbose=verbose, num_cpus=int(there["CPU"]), num_gpus=int(there.get("GPU", 0)))


def _play_alone(cell: Cell, path: Path, here: Path) -> str | None:
    """A whole run in this process, in the working folder of whoever asked for it."""
    resources = cell.experiment.resources.model_copy(update={"backend": "inline", "address": "local"})
    with chdir(here):
        return _play(cell, cell.experiment.model_copy(update={"resources": resources}), path, None, False)


def _play(cell: Cell, x: Experiment, path: Path, watch: api.Watch | None, verbose: bool) -> str | None:
    """Play or go on with a run; gives what went wrong."""
    try:
        if begun := begun_with(path):
            x = begun.model_copy(update={"resources": x.resources})
        api.simulate(x, path, resume=path.exists(), watch=watch, verbose=verbose)
    except (ConfigError, RunError) as e:
        return str(e).partition("\n")[0]
    except Exception as e:
        kept = keep_traceback(e, path)
        return f"{type(e).__name__}: {e}" + (f" (the traceback is in {kept})" if kept else "")
    return None


def _told(ended: Iterable[tuple[Cell, str | None]], path: Path, say: Watch) -> dict[str, str]:
    """Tell what has ended, as it does."""
    failures = {}
    for cell, why in ended:
        file = run_of(path, cell) / "summary.json"
        if why is None and not file.exists():
            why = f"it has left nothing in {file.parent}: expected a folder that all nodes share"
        if why is not None:
            failures[cell.name] = why
        means = {} if why else run_files.summary(file.parent)["mean"]
        say(Done(cell, means, why))
    return failures
