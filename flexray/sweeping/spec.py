"""What to sweep: an experiment's config with a section `sweep`, and the trials that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flexray import raw
from flexray.comparison.numbers import Number, numbers
from flexray.comparison.overlay import overlaid, sections
from flexray.config import Experiment, section
from flexray.errors import ConfigError, did_you_mean, expected
from flexray.findings import show
from flexray.local_files import absolute
from flexray.sections import Section
from flexray.sweeping import axis
from flexray.sweeping.axis import Axis
from flexray.sweeping.checks import WITH, once, problems

Point = dict[str, Any]
"""Swept keys and their values in one trial."""


class Stop(Section):
    """Ending trials that do badly.

    name: `asha`, asynchronous successive halving (Li et al. 2020), goes on at rounds grace, grace·factor, … with the best 1/factor of
    those that came so far; `median` ends a trial whose best value so far is worse than the median of the others' running means
    (Golovin et al. 2017). grace: no trial ends before this round. factor: of asha. least: of median, so many others must have come as far.
    """

    name: Literal["none", "asha", "median"] = "none"
    grace: int = Field(default=1, ge=1)
    factor: float = Field(default=3.0, gt=1)
    least: int = Field(default=3, ge=1)


class Budget(Section):
    """What a sweep may spend. trials: no more than so many. minutes: after so many since the start or the last resume, trials are
    stopped where they are."""

    trials: int | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)


class Sweep(Section):
    """Trials over any dotted keys, and what to make of them.

    over: keys with their values; the key `seed` is repeated for every setting, and results are means over it. samples: draws of the
    keys that are no grids; unset, 10. search: draws at random, or by Optuna's sampler (TPE), which learns from the trials before.
    metric and view: the number to choose by, the mean over clients on valid rows. refused: a combination that the config's
    own checks refuse stops the sweep before it starts, or is left out (skip). cpus: of a trial; auto: one actor's
    if there are enough trials to fill the cluster, else their share of it. jobs: at most so many trials at once.
    seed: of the draws, and of Optuna: its suggestions are the same again with `jobs: 1`; side by side they also follow from which
    trial ended first.
    """

    over: dict[str, Any]
    metric: str = "loss"
    view: Literal["shared", "personal"] = "personal"
    search: Literal["random", "optuna"] = "random"
    samples: int | None = Field(default=None, gt=0)
    stop: Stop = Stop()
    budget: Budget = Budget()
    refused: Literal["stop", "skip"] = "stop"
    cpus: Literal["auto"] | float = "auto"
    jobs: int | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)


class _Holder(Section):
    """The section where it stands, so that its keys are named in full."""

    sweep: Sweep


@dataclass(frozen=True)
class Spec:
    """A checked sweep. values: the raw config of all trials, without the section `sweep`."""

    values: dict[str, Any]
    sweep: Sweep
    axes: dict[str, Axis]

    @property
    def drawn(self) -> dict[str, Axis]:
        return {key: a for key, a in self.axes.items() if a.kind != "grid"}

    @property
    def seeds(self) -> tuple[int, ...]:
        """What every setting is repeated with; empty where the seed is not swept as a grid."""
        return self.axes["seed"].listed if "seed" in self.axes and self.axes["seed"].kind == "grid" else ()

    @property
    def samples(self) -> int:
        return (self.sweep.samples or 10) if set(self.drawn) else 1

    @property
    def most(self) -> int:
        """The most trials that there will be."""
        if self.sweep.search == "random":
            return len(self.points)
        return min(self.samples * max(1, len(self.seeds)), self.sweep.budget.trials or 10**9)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """All trials of a sweep without Optuna, in order: draw by draw, and every setting with all its seeds."""
        kept = [point for point in self._asked() if point not in self.refused]
        return tuple(kept[: self.sweep.budget.trials])

    @cached_property
    def refused(self) -> tuple[Point, ...]:
        """Combinations that are left out. Raises ConfigError where nothing is to be refused, or a value never goes with the rest."""
        left, wrong, fine = list[Point](), list[str](), list[Point]()
        for point in self._asked():
            try:
                self.experiment(point)
                fine.append(point)
            except ConfigError as e:
                left.append(point)
                wrong += e.problems
        never = any(not any(p[key] == point[key] for p in fine) for point in left for key in point)
        if left and (self.sweep.refused == "stop" or never):
            raise ConfigError(*once(wrong, len(left) + len(fine)))
        return tuple(left)

    def _asked(self) -> Iterator[Point]:
        grids = {key: a.listed for key, a in self.axes.items() if a.kind == "grid" and key != "seed"}
        seeds = {"seed": self.seeds} if self.seeds else {}
        for number in range(self.samples):
            draws = {key: a.draw(key, self.sweep.seed, number) for key, a in self.drawn.items()}
            for values in product(*grids.values(), *seeds.values()):
                found = dict(zip((*grids, *seeds), values, strict=True)) | draws
                yield {key: found[key] for key in self.axes}

    def experiment(self, point: Point) -> Experiment:
        """What a trial plays. Raises ConfigError that blames the swept key."""
        over = sections(point, "sweep.over")
        values = overlaid(self.values, over)
        evaluation = values.get("evaluation") or {}
        values["evaluation"] = {**evaluation, "split": "valid"} if isinstance(evaluation, Mapping) else evaluation
        try:
            return Experiment(**values)
        except ConfigError as e:
            raise ConfigError(*(self._blamed(problem, point) for problem in e.problems)) from None

    def _blamed(self, problem: str, point: Point) -> str:
        """A problem of a key that is swept names it where it stands; another one says with which values it came."""
        key = problem.partition(": ")[0]
        own = next((own for own in point if f"{key}.".startswith(f"{own}.") or own.startswith(f"{key}.")), "")
        if own:
            problem = f"sweep.over.{max(key, own, key=len)}{problem[len(key) :]}"
        lists = {k: v for k, v in point.items() if self.axes[k].kind == "grid" and k not in ("seed", own)}
        return problem + (f"{WITH}{', '.join(f'{k} {show(v)}' for k, v in lists.items())})" if lists else "")

    @cached_property
    def number(self) -> Number:
        """The number to choose by."""
        return numbers(self.first)[self.sweep.metric]

    @property
    def less(self) -> bool:
        return self.number.reading.less

    @property
    def first(self) -> Experiment:
        """One of the trials' experiments."""
        return self.experiment(self.points[0] if self.sweep.search == "random" else self.corners[0])

    @property
    def corners(self) -> tuple[Point, ...]:
        """Points with every value of the lists and the ends of every range: what can be checked before anything is drawn."""
        most = max(len(a.ends) for a in self.axes.values())
        return tuple({key: a.ends[min(i, len(a.ends) - 1)] for key, a in self.axes.items()} for i in range(most))

    def dump(self) -> dict[str, Any]:
        """Plain values that `read` takes; with the source of the user's files."""
        points = self.points if self.sweep.search == "random" else self.corners
        plugins = {name: text for point in points for name, text in self.experiment(point).plugins.items()}
        values = {**self.values, **({"plugins": plugins} if plugins else {})}
        over = {key: {a.kind: list(getattr(a, a.kind))} for key, a in self.axes.items()}
        return {**values, "sweep": {**self.sweep.model_dump(mode="json"), "over": over}}


def load(path: Path | None, sets: tuple[str, ...] = ()) -> Spec:
    """From a YAML file and overrides `dotted.key=value`."""
    return read(raw.read(path, sets))


def asked_for(config: Path | None, sets: tuple[str, ...], resume: Path | None) -> Spec:
    """What a command line asks for: a config, or what the sweep in the folder `resume` was started with, and overrides."""
    if resume is None or config is not None:
        return load(config, sets)
    if not (resume / "sweep.yaml").exists():
        raise ConfigError(f"--resume: expected the folder of a sweep, got {str(resume)!r} without sweep.yaml; name another")
    return load(resume / "sweep.yaml", sets)


def read(values: Mapping[str, Any]) -> Spec:
    """From raw values. Raises ConfigError with everything that is wrong, every trial's own experiment included."""
    given = values.get("sweep")
    if not isinstance(given, Mapping):
        raise expected("sweep", "a section with keys to sweep over", given, "write `sweep: {over: {train.lr: [0.001, 0.01]}}`")
    axes = axis.read(given.get("over"))
    sweep = section(_Holder, {"sweep": {**given, "over": {}}}).sweep
    spec = Spec(absolute({key: value for key, value in values.items() if key != "sweep"}), sweep, axes)
    if wrong := list(problems(spec)):
        raise ConfigError(*wrong)
    for point in spec.corners if sweep.search == "optuna" and sweep.refused == "stop" else ():
        spec.experiment(point)
    first = spec.first
    if sweep.metric not in (known := numbers(first)):
        raise expected(
            "sweep.metric", "a number of evaluation.metrics, on valid rows", sweep.metric, did_you_mean(sweep.metric, known)
        )
    if sweep.stop.name != "none" and first.evaluation.every is None:
        raise expected(
            "evaluation.every", "a number of rounds with sweep.stop", None, "set it, so that there is something to stop by"
        )
    return spec
