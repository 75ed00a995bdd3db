"""Putting updates together that began from different states of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from flexray.sim.job import Job
from flexray.sim.system.buffered import Buffered, weight
from flexray.sim.work import Server
from flexray.state import Update


def served(job: Job, course: Buffered, server: Server, round: int, sums: Sequence[np.ndarray | None]) -> Server:
    """The server after a round of a buffer. sums: of the updates that began with each of the round's versions Σ_k p_k·u_k, p_k = n_k over
    the rows of the whole buffer (None where there is none); they may be written into."""
    versions, every = course.versions(round), course.parted(round)
    rows = [sum(len(job.trainees[c].train) for c in own) for own in every]
    sent = [job.down.pack_one(state.sent) for state in server.before(versions).states]
    shares = [n / sum(rows) for n in rows]
    total = mean(sums, sent, shares, [weight(job.experiment.system, round - v) for v in versions])
    (state,) = server.states
    share = sum(map(len, every)) / len(job.clients)
    after = job.algorithm.server(state, job.up.views(torch.from_numpy(total)), share)
    return Server((after,), (), _kept(job, course, server, round))


def mean(
    sums: Sequence[np.ndarray | None], sent: Sequence[np.ndarray], shares: Sequence[float], weights: Sequence[float]
) -> np.ndarray:  # fmt: skip
    """θ + Σ_k s(τ_k)·p_k·(u_k − θ_v(k)), [P]. By version, the newest (θ) first: Σ p_k·u_k, what was sent, Σ p_k, and s. Where all began
    with the newest, their sum as it is."""
    first, *others = zip(sums, sent, shares, weights, strict=True)
    now, total = first[1], np.zeros_like(first[1]) if first[0] is None else first[0]
    if others:
        total += np.float32(1 - first[2]) * now
    for own, before, share, s in others:
        assert own is not None
        total += np.float32(s) * (own - np.float32(share) * before)
    return total


def _kept(job: Job, course: Buffered, server: Server, round: int) -> Mapping[int, Update]:
    """What was sent, by round, as far as it is still needed."""
    every = {**server.past, round: server.states[0].sent}
    return {} if round + 1 == job.experiment.rounds else {v: every[v] for v in course.needed(round)}
