"""What of privacy is asked for, and what cannot be had with a method: checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sim.job import Job
from flexray.sim.privacy import accountant
from flexray.sim.privacy.change import is_change
from flexray.sim.privacy.clipping import count_stddev
from flexray.sim.wire import Wire


def guarded(x: Experiment) -> bool:
    """Whether updates leave otherwise than as they are."""
    return private(x) or x.privacy.secure_aggregation.protocol != "none" or x.compress.kind != "none"


def private(x: Experiment) -> bool:
    """Whether updates are clipped and noised, by whomever."""
    return x.privacy.dp.where != "none"


def closes(x: Experiment) -> bool:
    """Whether the server gets something else than a mean of updates."""
    return private(x) or _masked(x)


def follows(x: Experiment) -> bool:
    """Whether the clip follows the norms."""
    return private(x) and x.privacy.dp.adaptive.quantile is not None


def groups(up: Wire) -> int:
    """How many groups of tensors have a clip of their own."""
    return 2 if up.payload.aux else 1


def check(job: Job) -> None:
    """Raises ConfigError for what only the model and the data can tell."""
    x = job.experiment
    if not guarded(x):
        return
    if private(x):
        accountant.check_there()
    if found := [*_forms(job), *(_dp(job) if private(x) else ()), *(_sum(job) if _masked(x) else ())]:
        raise ConfigError(*found)


def _masked(x: Experiment) -> bool:
    return x.privacy.secure_aggregation.protocol != "none"


def _forms(job: Job) -> Iterator[str]:
    """Of what form updates must be."""
    x, name = job.experiment, job.algorithm.name
    if not job.up.numbers:
        key = "compress.kind" if x.compress.kind != "none" else "privacy"
        yield f"{key}: expected none with {name}, whose clients send nothing; drop it"
    if any(job.algorithm.cut(job.up.payload, c) != job.up.payload for c in range(len(job.clients))):
        key = "compress.kind" if x.compress.kind != "none" else "privacy"
        yield f"{key}: expected none with {name} and clients of lower rank, whose updates differ in size; give all the same rank"
    if x.compress.kind == "topk" and not is_change(job.up, job.down):
        yield (
            f"compress.kind: expected fp16, bf16 or int8 with {name}, got 'topk'; what its clients send is no change of what they got, "
            "and most of it must not be zero"
        )


def _dp(job: Job) -> Iterator[str]:
    name, dp = job.algorithm.name, job.experiment.privacy.dp
    for fixed in [p.name for p in job.up.places if not p.trained][:1]:
        yield f"privacy.dp.where: expected none with {name}, got {dp.where!r}; it sends whole numbers ({fixed}) that noise would spoil"
    if not is_change(job.up, job.down):
        yield (
            f"privacy.dp.where: expected none with {name}, got {dp.where!r}; its clients send products with counts, not a change of what "
            "they got that a clip could bound"
        )
    elif job.up.payload.aux and dp.aux_clip is None:
        yield f"privacy.dp.aux_clip: expected a number with {name}, whose clients send more than weights, got none; set it, or use fedavg"
    if dp.aux_clip is not None and not job.up.payload.aux:
        yield f"privacy.dp.aux_clip: expected none with {name}, whose clients send weights only, got {dp.aux_clip}; drop it"
    if dp.delta >= 1 / len(job.clients):
        yield f"privacy.dp.delta: expected less than 1/clients = {1 / len(job.clients):g}, got {dp.delta:g}; 1e-5 is usual"
    yield from _adaptive(dp, job.cohort)
    if dp.accountant == "pld" and dp.sampling == "fixed" and job.cohort < len(job.clients):
        yield "privacy.dp.accountant: expected rdp with `privacy.dp.sampling: fixed` and a cohort, got 'pld'; or set sampling to poisson"


def _adaptive(dp: Any, cohort: int) -> Iterator[str]:
    if dp.adaptive.quantile is not None and (sd := 2 * count_stddev(dp, cohort)) <= dp.noise_multiplier:
        yield (
            f"privacy.dp.adaptive.count_stddev: expected more than noise_multiplier/2 = {dp.noise_multiplier / 2:g}, got {sd / 2:g}; "
            "the count alone would tell more than the whole may: raise it"
        )


def _sum(job: Job) -> Iterator[str]:
    told = job.experiment.privacy.secure_aggregation
    if job.cohort < 2:
        yield f"privacy.secure_aggregation.protocol: expected at least 2 clients in a round, got {job.cohort}; a sum of one is that one"
    others = job.cohort - 1
    left, least = others - int(told.dropout * job.cohort + 1e-9), ceil(told.reconstruction_threshold * others)
    if told.num_shares is None and left < least:
        yield (
            f"privacy.secure_aggregation.dropout: expected to leave {least} of the {others} who hold a client's shares, got {told.dropout} "
            f"of {job.cohort}, which leaves {left}; lower it, or reconstruction_threshold"
        )
    if told.num_shares is not None and told.num_shares >= job.cohort - 1 and job.cohort > 1:
        yield (
            f"privacy.secure_aggregation.num_shares: expected less than the {job.cohort - 1} others of a cohort, got {told.num_shares}; "
            "drop it for all of them"
        )
