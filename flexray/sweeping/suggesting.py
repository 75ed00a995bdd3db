"""Optuna's sampler, asked for settings and told what came of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from flexray.sweeping.axis import Axis
from flexray.sweeping.records import Record
from flexray.sweeping.spec import Point, Spec

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Suggesting:
    """Trials in turn: every setting that Optuna suggests with all seeds, and the mean over these told to it when the last has ended.

    Settings in the making count for the sampler as bad ones (`constant_liar`), so that trials side by side differ.
    """

    def __init__(self, spec: Spec, known: Iterable[tuple[Record, float | None]] = ()):
        known = sorted(known, key=lambda told: told[0].number)
        # Where it goes on, the sampler must not draw again what it drew at first.
        seed = np.random.SeedSequence([spec.sweep.seed, len(known)]).generate_state(1)[0]
        sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
        self.study = optuna.create_study(sampler=sampler, direction="minimize" if spec.less else "maximize")
        self.seeds = spec.seeds or (None,)
        self.space = {key: _distribution(axis) for key, axis in spec.drawn.items()}
        self.spec = spec
        self.asked: dict[int, optuna.trial.Trial] = {}
        self.values: dict[int, dict[int, float | None]] = {}
        self._repeat(known)

    def _repeat(self, known: Iterable[tuple[Record, float | None]]) -> None:
        """What was suggested before, and what came of it: as if it had just been."""
        for record, value in known:
            self._setting(record.number, {key: record.point[key] for key in self.space})
            if record.status in ("finished", "stopped"):
                self.tell(record.number, value)

    def point(self, number: int) -> Point:
        """The point of a trial, from 0; the seeds of one setting follow one another."""
        drawn = self._setting(number)
        found = {"seed": self.seeds[number % len(self.seeds)], **drawn}
        return {key: _plain(found[key], self.spec.axes[key]) for key in self.spec.axes}

    def tell(self, number: int, value: float | None) -> None:
        """How a trial ended; None: it failed."""
        setting = number // len(self.seeds)
        told = self.values.setdefault(setting, {})
        told[number] = value
        if len(told) < len(self.seeds):
            return
        fine = [v for v in told.values() if v is not None]
        if len(fine) == len(told):
            self.study.tell(self.asked[setting], sum(fine) / len(fine))
        else:
            self.study.tell(self.asked[setting], state=TrialState.FAIL)

    def _setting(self, number: int, known: Point | None = None) -> Point:
        setting = number // len(self.seeds)
        if setting not in self.asked:
            if known:
                self.study.enqueue_trial({key: _told(value) for key, value in known.items()})
            self.asked[setting] = self.study.ask(self.space)
        return self.asked[setting].params


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.choice:
        return CategoricalDistribution(list(map(_told, axis.choice)))
    if axis.randint:
        return IntDistribution(axis.randint[0], axis.randint[1] - 1)
    low, high = axis.loguniform or axis.uniform or (0.0, 1.0)
    return FloatDistribution(low, high, log=axis.loguniform is not None)


def _told(value: Any) -> Any:
    """A list or a section stands in Optuna as its text."""
    return repr(value) if isinstance(value, (list, tuple, dict)) else value


def _plain(value: Any, axis: Axis) -> Any:
    return next((v for v in axis.choice if _told(v) == value), value) if axis.choice else value
