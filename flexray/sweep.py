"""Sweeps on Ray Tune: trials over the keys of a config, side by side as there is room, each a run in a placement group of its own.

Tune places trials, stops those that do badly and asks for the next one. What must outlive it is in the sweep's folder
(`sweeping/records.py`): a sweep goes on from there, and its trials from their run folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import PlacementGroup

from flexray import api, backend, cluster
from flexray.errors import RunError
from flexray.report.messages import keep_traceback
from flexray.sim.holding import alone
from flexray.sim.quiet import without_ray
from flexray.sweeping import results
from flexray.sweeping.events import Begun, Event
from flexray.sweeping.placing import Room
from flexray.sweeping.playing import Play
from flexray.sweeping.quiet import settings
from flexray.sweeping.records import Record, Records, check_folder, write_spec
from flexray.sweeping.results import Sweep
from flexray.sweeping.spec import Spec
from flexray.sweeping.trials import FOREVER, Trials, Watch

DIED = "its process died: it was killed, or the memory was full"


def sweep(spec: Spec, out: Path | str, *, resume: bool = False, watch: Watch | None = None, verbose: bool = False) -> Sweep:
    """Run the trials that are not over, and write what came of all into the folder `out`.

    A trial that fails is among the sweep's `failures` and keeps no other from going on; `resume` tries it again. Raises ConfigError
    before anything is written.
    """
    path, say = Path(out), watch or (lambda _: None)
    with api.joined(spec.first, verbose) as there, ExitStack() as held:
        check_folder(spec, path, resume)
        backend.check_shared(spec.first.resources, path.absolute(), "--out")
        if resume:
            held.enter_context(alone(path, "--resume", "sweep"))
        room = Room(there, _largest(there), spec.most)
        trials = Trials(spec, Records(path.absolute()), room, say)
        if not resume:
            held.enter_context(alone(path, "--out", "sweep"))
            check_folder(spec, path, resume)
        write_spec(spec, path)
        trials.begin()
        if trials.left:
            with cluster.start("local", verbose=verbose, num_cpus=int(there["CPU"]), num_gpus=int(there.get("GPU", 0))):
                _tune(trials, verbose)
    try:
        return results.gathered(spec, path)
    except RunError as e:
        over = "the time was over, and " if trials.late() else ""
        raise RunError(f"{over}{e}\nWhat trials did is kept. Go on with:\n  flexray sweep --resume {path}") from e


def planned(spec: Spec, path: Path | None = None, verbose: bool = False) -> tuple[list[Record], Begun]:
    """What `sweep` would run, or still run where it goes on in the folder `path`; of a search that learns the number of trials alone.

    Nothing is started or measured, nor written but to the cache. Raises ConfigError as `sweep` does.
    """
    if path:
        check_folder(spec, path, True)
    told: list[Event] = []
    with api.joined(spec.first, verbose) as there:
        room = Room(there, _largest(there), spec.most)
        trials = Trials(spec, Records(path or Path("sweep")), room, told.append, measure=False)
        trials.begin()
    begun = told[-1]
    assert isinstance(begun, Begun)
    return list(trials.queue), begun


def new_folder() -> Path:
    """`runs/<time>-sweep`."""
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-sweep"


class _Unsaved:
    """Left out of what Tune writes for itself: the sweep's folder has it all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Order(_Unsaved, Searcher):
    """Tells Tune what to run next."""

    def __init__(self, trials: Trials):
        super().__init__()
        self.trials = trials

    def suggest(self, trial_id: str) -> Any:
        number = self.trials.next()
        return Searcher.FINISHED if number is None else {"number": number}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: `_Ear` hears it too, with the trial."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Ear(_Unsaved, tune.Callback):
    """Hears what Tune's trials tell."""

    def __init__(self, trials: Trials):
        self.trials = trials

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        self.trials.heard(result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.trials.ended(trial.config["number"], (trial.last_result or {}).get("failure"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = str(trial.get_error() or DIED).strip().splitlines()[-1]
        self.trials.ended(trial.config["number"], reason)


class _Late(_Unsaved, tune.Stopper):
    """Ends everything when the time is over."""

    def __init__(self, late: Callable[[], bool]):
        self.late = late

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.late()


class _Before:
    """Stands for a trial that was over before the sweep went on."""

    def __init__(self, number: int):
        self.trial_id = f"before-{number}"


def _scheduler(spec: Spec, records: Records) -> TrialScheduler:
    """What ends trials that do badly; it knows how the trials of before went."""
    stop, mode = spec.sweep.stop, "min" if spec.less else "max"
    given = {"time_attr": "round", "metric": "value", "mode": mode, "grace_period": stop.grace}
    if stop.name == "none":
        return FIFOScheduler()
    if stop.name == "asha":
        made: Any = ASHAScheduler(max_t=FOREVER, reduction_factor=stop.factor, **given)
    else:  # it would pause trials that it cannot judge yet, for others to begin
        made = MedianStoppingRule(min_samples_required=stop.least, min_time_slice=float("inf"), **given)  # pyright: ignore[reportArgumentType]
    for record in records.all():
        if record.status in ("finished", "stopped") and (
            scores := records.scores(record.number, spec.sweep.view, spec.sweep.metric)
        ):
            one: Any = _Before(record.number)
            made.on_trial_add(None, one)
            for round, value in scores:
                made.on_trial_result(None, one, {"round": round, "value": value})
            made.on_trial_complete(None, one, {"round": scores[-1][0], "value": scores[-1][1]})
    return made


def _tune(trials: Trials, verbose: bool) -> None:
    """Plays trials until there are no more, or the time is over."""
    path, s = trials.records.path, trials.spec.sweep
    play = Play(trials.records, Path.cwd(), s.view, s.metric, keep_traceback)
    with settings(path / ".tune", verbose), without_ray(not verbose), _no_groups_left():
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(lambda config, play: play(config["number"], tune.report), play=play),
                partial(_bundles, out=path),
            ),
            tune_config=tune.TuneConfig(
                search_alg=_Order(trials),
                scheduler=_scheduler(trials.spec, trials.records),
                num_samples=-1,
                max_concurrent_trials=trials.slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=str(path / ".tune"), callbacks=[_Ear(trials)], stop=_Late(trials.late), verbose=0
            ),
        )
        tuner.fit()


def _bundles(config: dict[str, Any], out: Path) -> tune.PlacementGroupFactory:
    """A trial's placement group, on one node: of several actors, the process that leads them takes nothing."""
    record = Records(out).read(config["number"])
    assert record is not None
    share = {"CPU": record.cpus, **({"GPU": record.gpus} if record.gpus else {})}
    return tune.PlacementGroupFactory([share] if record.actors == 1 else [{}, share], strategy="STRICT_PACK")


@contextmanager
def _no_groups_left() -> Iterator[None]:
    """Placement groups of the block go with it, and with them their trials: Tune leaves them where it is interrupted."""
    before = set(ray.util.placement_group_table())
    try:
        yield
    finally:
        for name, group in ray.util.placement_group_table().items():
            if name not in before and group["state"] != "REMOVED":
                ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


def _largest(there: Any) -> float:
    """CPUs of the largest node."""
    return max(node["Resources"].get("CPU", 0.0) for node in ray.nodes()) if cluster.is_running() else there["CPU"]
