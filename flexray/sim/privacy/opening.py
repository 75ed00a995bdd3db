"""What the server makes of guarded updates: masks taken off, noise added once, the clip moved, and ε counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import torch

from flexray.sim.job import Job
from flexray.sim.privacy import clipping, rules
from flexray.sim.privacy.accountant import epsilon, multiplier_for, replaces
from flexray.sim.privacy.change import base, generator, split
from flexray.sim.privacy.masks import Masks
from flexray.state import ServerState, Update

CLIP = "flexray/clip"
"""Among what the server keeps: the clip, where it has moved. Methods do not see it."""


def sent(vector: np.ndarray, state: ServerState) -> np.ndarray:
    """[P] what goes to clients; the clip behind it, where it has moved."""
    return np.append(vector, state.kept[CLIP].numpy()) if CLIP in state.kept else vector


def clip_of(job: Job, state: ServerState) -> float:
    """What the next changes are clipped to."""
    return float(state.kept[CLIP]) if CLIP in state.kept else job.experiment.privacy.dp.clip


def served(job: Job, state: ServerState, gathered: np.ndarray | None, clients: Sequence[int], round: int) -> ServerState:
    """The server after a round. gathered: the sum that came; None where nobody took part, which differential privacy must not show."""
    dp, x = job.experiment.privacy.dp, job.experiment
    if gathered is None and dp.where != "central":
        return state
    bare = ServerState(state.sent, {n: t for n, t in state.kept.items() if n != CLIP})
    total = _total(job, gathered, clients, round)
    if not rules.private(x):
        mean = job.up.views(torch.from_numpy(total))
        return job.algorithm.server(bare, mean, len(clients) / len(job.clients))
    # The cohort that was expected, not the one that came: how many came is a client's secret too.
    mean, moved = _noised(job, state, total, round)
    after = job.algorithm.server(bare, mean, job.cohort / len(job.clients))
    return ServerState(after.sent, after.kept | moved)


def told(job: Job, round: int, before: ServerState) -> dict[str, float]:
    """A round's numbers: ε after it, and the clip in it; none without differential privacy."""
    if not rules.private(job.experiment):
        return {}
    return {"epsilon": spent(job, round), "clip": clip_of(job, before)}


def spent(job: Job, round: int) -> float:
    """ε after a round."""
    return epsilon(job.experiment.privacy.dp, len(job.clients), job.cohort, _times(job, round + 1))


def protected(job: Job) -> Job:
    """The job, checked, with the noise that `privacy.dp.epsilon` asks for, over all rounds, in that key's place."""
    x, dp = job.experiment, job.experiment.privacy.dp
    rules.check(job)
    if dp.epsilon is None:
        return job
    z = multiplier_for(dp, len(job.clients), job.cohort, _times(job, x.rounds))
    privacy = x.privacy.model_copy(update={"dp": dp.model_copy(update={"epsilon": None, "noise_multiplier": z})})
    job = replace(job, spec=x.model_copy(update={"privacy": privacy}).spec())
    rules.check(job)
    return job


def _times(job: Job, rounds: int) -> int:
    """What adds up in so many rounds: all of them, or, where noise is each client's own, the updates of the client who sent most, whom
    sampling cannot hide from the server."""
    if job.experiment.privacy.dp.where != "local":
        return rounds
    updates = np.zeros(len(job.clients), np.int64)
    for round in range(rounds):
        updates[list(job.taking_part(round))] += 1
    return int(updates.max())


def notes(job: Job) -> tuple[str, ...]:
    """What a plan says of it."""
    x = job.experiment
    if not rules.private(x):
        return ()
    e = spent(job, x.rounds - 1)
    return (f"differential privacy ({x.privacy.dp.where}): after {x.rounds} rounds ε {e:.2f} at δ {x.privacy.dp.delta:g}",)


def summary(job: Job, rounds: int) -> dict[str, Any]:
    """What summary.json says of it."""
    x, found = job.experiment, {}
    if rules.private(x):
        dp, e = x.privacy.dp, spent(job, rounds - 1)
        found["dp"] = {
            "where": dp.where,
            "epsilon": None if e == inf else e,
            "delta": dp.delta,
            "noise_multiplier": dp.noise_multiplier,
            "neighbours": "a client is replaced" if replaces(dp) else "a client is added or removed",
            "sampling": dp.sampling,
            "accountant": dp.accountant,
        }
    if x.privacy.secure_aggregation.protocol != "none":
        found["secure_aggregation"] = x.privacy.secure_aggregation.model_dump()
    return found


def _total(job: Job, gathered: np.ndarray | None, clients: Sequence[int], round: int) -> np.ndarray:
    """[P] float32: the sum, of changes if they are private, else the mean of those who were not lost."""
    x = job.experiment
    if gathered is None:
        return np.zeros(job.up.numbers + rules.follows(x), np.float32)
    if x.privacy.secure_aggregation.protocol == "none":
        return gathered
    cohort = job.taking_part(round)
    masks = Masks(x.privacy.secure_aggregation, x.seed, round, cohort, frozenset(cohort) - {*clients})
    total = masks.opened(gathered)
    if not rules.private(x):
        rows = {c: len(job.trainees[c].train) for c in cohort}
        total *= sum(rows.values()) / sum(rows[c] for c in masks.there)
    return total.astype(np.float32)


def _noised(job: Job, state: ServerState, total: np.ndarray, round: int) -> tuple[Update, dict[str, torch.Tensor]]:
    """The mean of the updates, as far as it may be known, and the clip if it moves."""
    dp, up, n, clip = job.experiment.privacy.dp, job.up, split(job.up), clip_of(job, state)
    total, rng = np.array(total), generator(job.experiment.seed, round, clipping.SERVER)
    if dp.where == "central":
        z = clipping.multiplier(dp, job.cohort, rules.groups(up))
        clipping.noise_(total[:n], z * clip, rng)
        clipping.noise_(total[n : up.numbers], z * (dp.aux_clip or 0.0), rng)
    start = base(up, job.down, job.down.pack_one(state.sent))
    mean = up.views(torch.from_numpy(start + total[: up.numbers] / np.float32(job.cohort)))
    if dp.adaptive.quantile is None:
        return mean, {}
    noise = clipping.count_stddev(dp, job.cohort) * rng.standard_normal() if dp.noise_multiplier else 0.0
    below = 0.5 + (float(total[-1]) + noise) / job.cohort
    return mean, {CLIP: torch.tensor(clipping.next_clip(dp, clip, below), dtype=torch.float32)}
