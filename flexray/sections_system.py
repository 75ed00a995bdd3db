"""The section `system`: how fast and how reliable clients are, and how the server deals with it, on a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flexray.sections import Section

Spread = float | dict[str, tuple[float, ...]]
"""One number for all, or a seeded distribution: see `LAWS`."""

LAWS = {
    "lognormal": "[median, sigma]",
    "uniform": "[least, most]",
    "choice": "[value, value, …]",
    "bernoulli": "[probability, value]",
}
"""A distribution's parameters. choice: each value as likely as the others; bernoulli: the value with that probability, else what
the key means by nothing (1 for slowdown, 0 for dropout and latency)."""
SPREADS = ("tokens_per_second", "download_mbps", "upload_mbps", "latency", "slowdown", "dropout")
NOTHING = {"latency": 0.0, "slowdown": 1.0, "dropout": 0.0}
"""The value without effect, where there is a finite one."""
ASYNC = ("buffer", "concurrency", "staleness", "staleness_exponent", "max_staleness")
SYNC = ("over_selection", "min_updates")


class Diurnal(Section):
    """Clients come and go in a daily course that is drawn once."""

    period: float = Field(default=86400.0, gt=0)
    """Seconds of a day."""
    share: Spread = 0.5
    """Of every period in which a client is there, around an hour of its own."""
    sd: float | None = Field(default=None, ge=0)
    """Hours are normal around the middle of the period with a standard deviation of so many periods; null: any hour is as likely."""


class System(Section):
    """Clients' speed and reliability on a simulated clock (docs/system.md); nothing of it is set by default, and no second is ever waited.

    A turn lasts latency + bytes down / download + slowdown · tokens / tokens_per_second + latency + bytes up / upload seconds; what is
    unset takes no time. Numbers stand for all clients; `{lognormal: [median, sigma]}` and its like are drawn for each.
    """

    mode: Literal["sync", "async"] = "sync"
    """`sync`: a round ends when all have answered; `async`: FedBuff (Nguyen et al. 2022, arXiv 2106.06639)."""
    tokens_per_second: Spread | None = None
    """Of a client's training."""
    download_mbps: Spread | None = None
    """Megabits per second from the server."""
    upload_mbps: Spread | None = None
    """Megabits per second to the server."""
    latency: Spread = 0.0
    """Seconds before anything comes, each way."""
    profiles: Path | None = None
    """A CSV or JSON file with such columns by client, which come before; `*` for the rest."""
    slowdown: Spread = 1.0
    """A factor of the time of training: stragglers."""
    slowdown_each: Literal["turn", "client"] = "turn"
    """Whether that is drawn anew for each turn, or once for a client."""
    dropout: Spread = 0.0
    """The probability that a turn ends in silence."""
    availability: Path | None = None
    """A file of intervals in which clients are there."""
    availability_period: float | None = Field(default=None, gt=0)
    """Seconds after which these repeat; null: never."""
    diurnal: Diurnal | None = None
    """A daily course instead of a file."""
    deadline: float | None = Field(default=None, gt=0)
    """A round ends at the latest after so many seconds; who is late does not count."""
    over_selection: float = Field(default=1.0, ge=1)
    """So many times the cohort are asked, and the first ones count."""
    min_updates: int = Field(default=1, gt=0)
    """With fewer of them a round is void: time passes, the server stays as it was."""
    buffer: int | None = Field(default=None, gt=0)
    """Of `async`: so many updates make a round."""
    concurrency: int | None = Field(default=None, gt=0)
    """Of `async`: so many clients are always at work; null: the cohort."""
    staleness: Literal["constant", "polynomial"] = "polynomial"
    """Of `async`: an update that is τ rounds late weighs 1, or (1 + τ)^−staleness_exponent."""
    staleness_exponent: float = Field(default=0.5, ge=0)
    """Of `polynomial`."""
    max_staleness: int | None = Field(default=None, ge=0)
    """Of `async`: what is more rounds late is thrown away."""

    @property
    def on(self) -> bool:
        """Whether anything is simulated."""
        return self != System()

    @property
    def loses(self) -> bool:
        """Whether a client that was asked may not count."""
        return self.dropout != 0 or bool(self.deadline or self.availability or self.diurnal or self.profiles)


def system_problems(x: Any) -> list[str]:
    """Settings of `system` that contradict each other or the rest of an Experiment."""
    s: System = x.system
    if not s.on:
        return []
    found = [*_spreads(s), *_modes(s)]
    if x.algorithm.pooled:
        found.append(f"system: expected none with {x.algorithm.name}, which has all rows in one place; drop the section")
    if isinstance(x.cohort, int) and s.min_updates > x.cohort:
        found.append(f"system.min_updates: expected at most the cohort ({x.cohort}), got {s.min_updates}; lower it")
    if s.availability and s.diurnal:
        found.append(f"system.diurnal: expected none with system.availability, got both ({s.availability}); drop one")
    if s.availability_period and not s.availability:
        found.append(
            f"system.availability_period: expected none without system.availability, got {s.availability_period}; drop it"
        )
    if x.privacy.dp.where != "none":
        found.append(
            "system: expected none with privacy.dp, whose ε assumes that whoever is drawn takes part; drop one of the two"
        )
    if s.mode == "async":
        found += _async(x, s)
    elif s.over_selection > 1 and everybody(x):
        found.append(f"system.over_selection: expected 1 where all clients take part, got {s.over_selection}; set cohort")
    return found


def everybody(x: Any) -> bool:
    """Whether all clients take part in every round."""
    return x.cohort is None or x.cohort == (1.0 if isinstance(x.cohort, float) else x.clients)


def _modes(s: System) -> Iterator[str]:
    """Keys of the other mode."""
    other, name = (SYNC, "async") if s.mode == "async" else (ASYNC, "sync")
    for key in other:
        if (got := getattr(s, key)) != getattr(System(), key):
            yield f"system.{key}: expected none with `system.mode: {name}`, got {got}; drop it"
    if s.mode == "async" and s.staleness == "constant" and s.staleness_exponent != System().staleness_exponent:
        yield f"system.staleness_exponent: expected none with `system.staleness: constant`, got {s.staleness_exponent}; drop it"


def _async(x: Any, s: System) -> Iterator[str]:
    """What buffered aggregation cannot do."""
    if s.buffer is None:
        yield "system.buffer: expected a number with `system.mode: async`, got nothing; 10 is usual"
    elif x.clients and s.buffer > x.clients:
        yield f"system.buffer: expected at most {x.clients} (clients), got {s.buffer}; a client is in it once: lower it"
    if s.concurrency and x.cohort is not None:
        yield f"system.concurrency: expected none with cohort, which says the same, got {s.concurrency} and {x.cohort}; drop one"
    if s.concurrency and x.clients and s.concurrency > x.clients:
        yield f"system.concurrency: expected at most {x.clients} (clients), got {s.concurrency}; lower it"
    if not (s.profiles or s.tokens_per_second or s.download_mbps or s.upload_mbps or s.latency):
        yield "system.tokens_per_second: expected a speed with `system.mode: async`, got nothing; set it, or latency, or profiles"
    if x.privacy.secure_aggregation.protocol != "none":
        yield "system.mode: expected sync with privacy.secure_aggregation, whose masks cancel within a cohort, got 'async'; drop one"
    if x.faults.on_failure == "skip":
        yield "faults.on_failure: expected fail with `system.mode: async`, got 'skip'; who arrives when is planned ahead: drop it"
    a = x.algorithm
    if a.each or a.surveys or a.pooled:
        what = "single updates" if a.each else "clusters" if a.surveys else "all rows in one place"
        yield f"system.mode: expected sync with {a.name}, which needs {what}, got 'async'; drop it"


def _spreads(s: System) -> Iterator[str]:
    """Numbers and distributions out of their bounds."""
    every = {key: getattr(s, key) for key in SPREADS} | ({"diurnal.share": s.diurnal.share} if s.diurnal else {})
    for key, value in every.items():
        if value is not None and (wrong := spread_problem(key, value)):
            yield f"system.{key}: expected {wrong}"


def spread_problem(key: str, value: Spread) -> str:
    """What is wrong with a number or distribution of a key, after `expected`; nothing if it is right."""
    if isinstance(value, dict):
        if len(value) != 1 or (law := next(iter(value))) not in LAWS:
            known = " or ".join(f"{name}: {what}" for name, what in LAWS.items())
            return f"a number, or one of {known}, got {value}; {{lognormal: [100, 0.5]}} has 100 in the middle"
        given = value[law]
        if not _formed(law, given) or (law == "bernoulli" and key not in NOTHING):
            if law == "bernoulli" and key not in NOTHING:
                return f"lognormal, uniform or choice, got bernoulli; that is for {', '.join(NOTHING)} only"
            return f"{law}: {LAWS[law]}, got {list(given)}; mend it"
        values = {"lognormal": given[:1], "bernoulli": given[1:]}.get(law, given)
    else:
        values = (value,)
    low, high, words = bounds(key)
    return next((f"{words}, got {v}; mend it" for v in values if not low <= v <= high), "")


def bounds(key: str) -> tuple[float, float, str]:
    """The least and the largest value of a key, and both in words."""
    if key in ("dropout", "diurnal.share"):
        return 0.0, 1.0, "a share from 0 to 1"
    if key in ("latency",):
        return 0.0, float("inf"), "seconds of at least 0"
    return 1e-12, float("inf"), "a number above 0"


def _formed(law: str, given: tuple[float, ...]) -> bool:
    if law == "choice":
        return len(given) > 0
    if len(given) != 2:
        return False
    return {"uniform": given[0] <= given[1], "lognormal": given[1] >= 0, "bernoulli": 0 <= given[0] <= 1}[law]
