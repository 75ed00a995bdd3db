"""What every client's device and network are like: settled once before a run, from the config, files and the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any

import numpy as np

from flexray.sections_system import NOTHING, Diurnal, Spread, System
from flexray.sim.system.availability import Availability
from flexray.sim.system.files import profiles, traces

MEGABIT = 1e6 / 8
"""Bytes."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """By client [N]: tokens and bytes a second (inf: no time), seconds of latency, factors of slowness, probabilities of silence.

    drawn: what is drawn for each turn multiplies slowness. there: None where everybody always is.
    """

    tokens_per_second: np.ndarray
    download: np.ndarray
    upload: np.ndarray
    latency: np.ndarray
    slowdown: np.ndarray
    dropout: np.ndarray
    drawn: Spread | None
    there: Availability | None

    @property
    def sha256(self) -> str:
        """Of all of it: a run goes on only with the clients that it was begun with."""
        found = hashlib.sha256(repr(self.drawn).encode())
        for part in (*self._columns.values(), *(vars(self.there).values() if self.there else ())):
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()

    @property
    def _columns(self) -> dict[str, np.ndarray]:
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), np.ndarray)}

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """As plain values: of each client what is not without effect."""
        told = [
            {"client": name, **{key: float(v[k]) for key, v in self._columns.items() if np.isfinite(v[k])}}
            for k, name in enumerate(names)
        ]
        return {"sha256": self.sha256, "clients": told}


def fleet(s: System, names: Sequence[str], seed: int) -> Fleet | None:
    """The clients of these names; None where nothing is simulated. Raises ConfigError for what is wrong with the files."""
    if not s.on:
        return None
    own = profiles(s.profiles, names) if s.profiles else [{}] * len(names)

    def column(key: str, kind: int, spread: Spread | None) -> np.ndarray:
        values = np.full(len(names), inf) if spread is None else draw(spread, key, len(names), seed, kind)
        told = np.array([profile.get(key, np.nan) for profile in own], float)
        return np.where(np.isnan(told), values, told)

    drawn = s.slowdown if s.slowdown_each == "turn" and isinstance(s.slowdown, dict) else None
    return Fleet(
        tokens_per_second=column("tokens_per_second", 1, s.tokens_per_second),
        download=column("download_mbps", 2, s.download_mbps) * MEGABIT,
        upload=column("upload_mbps", 3, s.upload_mbps) * MEGABIT,
        latency=column("latency", 4, s.latency),
        slowdown=column("slowdown", 5, 1.0 if drawn else s.slowdown),
        dropout=np.clip(column("dropout", 6, s.dropout), 0, 1),
        drawn=drawn,
        there=_there(s, names, seed),
    )


def draw(spread: Spread, key: str, n: int, *seed: int) -> np.ndarray:
    """[n] values: of more of them the first ones are the same."""
    if not isinstance(spread, dict):
        return np.full(n, float(spread))
    ((law, given),) = spread.items()
    rng = np.random.default_rng(np.random.SeedSequence([*seed, 0x5F5]))
    if law == "lognormal":
        return given[0] * np.exp(given[1] * rng.standard_normal(n))
    u = rng.random(n)
    if law == "uniform":
        return given[0] + (given[1] - given[0]) * u
    if law == "bernoulli":
        return np.where(u < given[0], given[1], NOTHING[key])
    return np.array(given)[np.minimum((u * len(given)).astype(int), len(given) - 1)]


def _there(s: System, names: Sequence[str], seed: int) -> Availability | None:
    if s.availability:
        return Availability.of(*traces(s.availability, names, s.availability_period))
    return diurnal(s.diurnal, len(names), seed) if s.diurnal else None


def diurnal(d: Diurnal, n: int, seed: int) -> Availability:
    """Each is there for its share of a period, around its own hour."""
    share = np.clip(draw(d.share, "diurnal.share", n, seed, 7), 0, 1)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 8, 0x5F5]))
    hour = rng.random(n) if d.sd is None else 0.5 + d.sd * rng.standard_normal(n)
    starts = np.mod(hour - share / 2, 1) * d.period
    return Availability.of(
        [[(a, a + w * d.period)] for a, w in zip(starts.tolist(), share.tolist(), strict=True)], [d.period] * n
    )
