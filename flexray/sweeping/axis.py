"""What one swept key takes: every value of a list, or draws from a list or a range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from math import exp, isfinite, log
from typing import Any
from zlib import crc32

import numpy as np

from flexray.config import section
from flexray.errors import ConfigError
from flexray.findings import NEAR, show
from flexray.local_files import absolute_at
from flexray.sections import Section

KINDS = ("grid", "choice", "uniform", "loguniform", "randint")
RANGES = KINDS[2:]
LARGEST = 2**63 - 1


class Axis(Section):
    """One key's values, by exactly one of these. grid: each in turn, with those of all other grids; choice: one of them, as likely as
    any other; uniform, loguniform: between two numbers; randint: a whole number from the first to below the second, as Ray Tune's."""

    grid: tuple[Any, ...] | None = None
    choice: tuple[Any, ...] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def listed(self) -> tuple[Any, ...]:
        """The values of a list; none of a range."""
        return self.grid or self.choice or ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check before anything is drawn: those of a list, or a range's lowest and highest."""
        if self.randint:
            return self.randint[0], self.randint[1] - 1
        return self.listed or self.uniform or self.loguniform or ()

    def draw(self, key: str, seed: int, number: int) -> Any:
        """The value of the `number`-th draw: the same whatever else is swept, and however many are drawn."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, number, crc32(key.encode())]))
        if self.choice:
            return self.choice[int(rng.integers(len(self.choice)))]
        if self.randint:
            return int(rng.integers(*self.randint))
        if self.loguniform:
            low, high = map(log, self.loguniform)
            return exp(rng.uniform(low, high))
        assert self.uniform is not None
        return float(rng.uniform(*self.uniform))


def read(given: Any) -> dict[str, Axis]:
    """From what stands at `sweep.over`. Raises ConfigError with everything that is wrong."""
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(
            f"sweep.over: expected dotted keys, each with its values, got {show(given)}; write `over: {{train.lr: [0.001, 0.01]}}`"
        )
    axes, wrong = {}, list[str]()
    for key, value in dict(_flat(given)).items():
        try:
            axes[key] = _axis(key, value)
        except ConfigError as e:
            wrong += e.problems
    if wrong:
        raise ConfigError(*wrong)
    return axes


def _flat(given: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and sections, mixed, as dotted keys; what is given later holds."""
    for name, value in given.items():
        key = f"{path}.{name}".lstrip(".")
        is_section = isinstance(value, Mapping) and not any(get_close_matches(str(word), KINDS, 1, NEAR) for word in value)
        if is_section and value:
            yield from _flat(value, key)
        else:
            yield key, value


def _axis(key: str, given: Any) -> Axis:
    at = f"sweep.over.{key}"
    if isinstance(given, (list, tuple)):
        given = {"grid": given}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{at}: expected a list, or one of {', '.join(KINDS)}, got {show(given)}; write [{show(given)}]")
    try:
        axis = section(Axis, given)
    except ConfigError as e:
        raise ConfigError(*(f"{at}.{problem}" for problem in e.problems)) from None
    lists = {kind: tuple(absolute_at(key, v) for v in values) for kind in KINDS[:2] if (values := getattr(axis, kind))}
    axis = axis.model_copy(update=lists)
    if problem := _problem(at, axis, [kind for kind in KINDS if getattr(axis, kind) is not None]):
        raise ConfigError(problem)
    return axis


def _problem(at: str, axis: Axis, kinds: list[str]) -> str | None:
    if len(kinds) != 1:
        return f"{at}: expected exactly one of {', '.join(KINDS)}, got {' and '.join(kinds) or 'none'}; keep one"
    (kind,) = kinds
    values = getattr(axis, kind)
    if kind in RANGES:
        if values[0] >= values[1]:
            return f"{at}.{kind}: expected two numbers, the lower one first, got {show(values)}; swap them"
        if kind == "randint" and not -LARGEST <= values[0] < values[1] <= LARGEST:
            return f"{at}.{kind}: expected numbers of at most 64 bits, got {show(values)}; choose smaller ones"
        if kind == "uniform" and not isfinite(values[1] - values[0]):
            return f"{at}.{kind}: expected two numbers with a finite difference, got {show(values)}; choose smaller ones"
        if kind == "loguniform" and values[0] <= 0:
            return f"{at}.{kind}: expected numbers above 0, got {show(values)}; use uniform, or start above 0"
    elif not values:
        return f"{at}.{kind}: expected at least one value, got {show(values)}; give some, or drop the key"
    elif len({repr(v) for v in values}) < len(values):
        return f"{at}.{kind}: expected each value once, got {show(values)}; drop what is there twice"
    return None
