"""Settings that are each well formed, and contradict each other, would be ignored, or name what is not there.

`x` is an Experiment, which is a floor above.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flexray import folder
from flexray.errors import did_you_mean
from flexray.protection import problems as protection
from flexray.sections import Train
from flexray.sections_system import system_problems


def combinations(x: Any) -> list[str]:
    """Settings that contradict each other, or that would be ignored."""
    found, t = [*_below_one(x), *_beyond(x), *protection(x), *system_problems(x)], x.train
    if isinstance(x.cohort, float) and not 0 < x.cohort <= 1:
        found.append(f"cohort: expected a share in (0, 1] or a number of clients, got {x.cohort}; leave it out for all")
    if isinstance(x.cohort, int) and not 1 <= x.cohort <= (x.clients or x.cohort):
        found.append(f"cohort: expected 1 to {x.clients} (clients), got {x.cohort}; lower it or raise clients")
    if isinstance(x.seats, int) and x.seats > 1 and x.placement == "one_per_client":
        found.append(f"seats: expected 1 with `placement: one_per_client`, got {x.seats}; set placement to pooled")
    if (t.steps is None) == (t.epochs is None):
        found.append(f"train.epochs: expected either train.steps or train.epochs, got {t.steps} and {t.epochs}; drop one")
    if t.schedule == "constant" and t.final_lr not in (Train().final_lr, t.lr):
        found.append(f"train.final_lr: expected none with `train.schedule: constant`, got {t.final_lr}; drop it")
    if t.schedule == "cosine" and t.final_lr > t.lr:
        found.append(f"train.final_lr: expected at most train.lr ({t.lr}), got {t.final_lr}; lower it or raise train.lr")
    if t.private_lr is not None and not x.algorithm.private:
        found.append(
            f"train.private_lr: expected none with {x.algorithm.name}, which has no private part, got {t.private_lr}; drop it"
        )
    if not x.evaluation.metrics or len(set(x.evaluation.metrics)) < len(x.evaluation.metrics):
        found.append(
            f"evaluation.metrics: expected at least one, each once, got {list(x.evaluation.metrics)}; use [loss, exact_match]"
        )
    if x.evaluation.probe_rows is not None and x.evaluation.probe is None:
        found.append(f"evaluation.probe_rows: expected none without evaluation.probe, got {x.evaluation.probe_rows}; drop it")
    if x.resources.backend == "inline" and x.resources.address not in (None, "local"):
        found.append(
            f"resources.address: expected none with `resources.backend: inline`, got {x.resources.address!r}; drop one"
        )
    return found


def _below_one(x: Any) -> Iterator[str]:
    """Numbers where a word may stand too."""
    of = {
        "seats": (x.seats, "auto", "1 for one client per forward"),
        "resources.threads": (x.resources.threads, "auto", "1 for one thread per actor"),
        "evaluation.clients": (x.evaluation.clients, "all, cohort", "all"),
        "evaluation.last": (x.evaluation.last, "all, cohort", "all"),
    }
    seconds = x.faults.client_seconds
    if not isinstance(seconds, str | None) and seconds <= 0:
        yield f"faults.client_seconds: expected auto, null or more than 0, got {seconds}; use auto"
    for key, (got, words, mend) in of.items():
        if isinstance(got, int) and got < 1:
            yield f"{key}: expected {words} or at least 1, got {got}; use {mend}"


def _beyond(x: Any) -> Iterator[str]:
    """Numbers that would take all memory, or that a library crashes at, before anybody could tell why."""
    of = {
        "resources.threads": (x.resources.threads, 1024),
        "train.batch": (x.train.batch, 100_000),
        "evaluation.inside_rows": (x.evaluation.inside_rows, 10_000),
        **({"clients": (x.clients, 100_000)} if x.data.path == "builtin" else {}),
    }
    for key, (got, most) in of.items():
        if isinstance(got, int) and got > most:
            where = " of the built-in corpus" if key == "clients" else ""
            yield f"{key}: expected at most {most:,}{where}, got {got}; lower it"


def unknown_names(x: Any) -> list[str]:
    """Names of folders' files that are not there, found without loading what they name."""
    named = [
        *(("evaluation.metrics", "metrics", n) for n in x.evaluation.metrics),
        *(("tracking", "trackers", n) for n in x.tracking),
    ]
    named += [("model.family", "models/families", x.model.family)] if x.model.family != "auto" else []
    return [
        f"{key}: expected a known name or a path ending in .py, got {name!r}; {did_you_mean(name, known)}"
        for key, kind, name in named
        if not folder.is_file(name) and name not in (known := folder.listing(kind))
    ]
