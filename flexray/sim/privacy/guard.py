"""What is done to a client's update before it leaves: clipped, noised, made smaller, masked. Each on its own, whoever sits beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexray.sim.job import Job
from flexray.sim.privacy import clipping, rules
from flexray.sim.privacy.change import base, generator, is_change, split
from flexray.sim.privacy.compression import ROUNDING, Codec
from flexray.sim.privacy.masks import Masks
from flexray.sim.reports import Cost
from flexray.sim.wire import BYTES, add_weighted
from flexray.state import ClientState

RESIDUAL = "flexray/residual"
"""Among what a client remembers: of its changes what never was sent. Methods do not see it."""
PROTOCOL = "secure_aggregation"
CLIP = "clip"
"""Roles in the ledger that are no parts."""


class Guard:
    """One process's. Where nothing is asked for it hands updates through as they are."""

    def __init__(self, job: Job):
        x, self.job, self.up, self.down = job.experiment, job, job.up, job.down
        self.dp, self.seed, self.on = x.privacy.dp, x.seed, rules.guarded(x)
        self.bits = rules.follows(x)
        self.codec = None
        if x.compress.kind != "none":
            self.codec = Codec(x.compress, job.up, is_change(job.up, job.down))
        self.remembers = x.compress.kind == "topk" and x.compress.feedback
        self.masks: Any = lru_cache(2)(self._masks) if x.privacy.secure_aggregation.protocol != "none" else None
        self.kind = np.float32 if self.masks is None else np.uint64
        self.numbers = job.up.numbers + self.bits
        """Of a vector that leaves: behind an update, where the clip follows the norms, ±1/2 for a short or a clipped change."""

    def start(self, fresh: ClientState, seats: int) -> ClientState:
        """What a newcomer owns, and remembers of what it did not send."""
        return remembering(fresh, torch.zeros(seats, self.up.numbers) if self.remembers else None)

    def parted(self, mine: ClientState) -> tuple[ClientState, Tensor | None]:
        """What a method may see, and the rest."""
        return methods_own(mine), mine.memory.get(RESIDUAL)

    def leave(
        self, vectors: np.ndarray, sent: np.ndarray, group: Sequence[int], round: int, residual: Tensor | None
    ) -> tuple[np.ndarray, Tensor | None]:
        """[K, P] as packed, to what is weighted and summed, and what is remembered. With differential privacy these are changes, else
        updates still."""
        if not self.on or (self.dp.where == "none" and self.codec is None):
            return vectors, residual
        start, found = base(self.up, self.down, sent), np.empty((len(group), self.numbers), np.float32)
        rests = None if residual is None else residual.cpu().numpy().copy()
        for k, client in enumerate(group):
            change = vectors[k] - start
            below = self._private_(change, self._clip(sent), client, round)
            self._smaller_(change, self._clip(sent), client, round, None if rests is None else rests[k])
            found[k, : self.up.numbers] = change + start if self.dp.where == "none" else change
            found[k, self.up.numbers :] = below - 0.5
        return found, None if rests is None else torch.from_numpy(rests)

    def add(
        self, total: np.ndarray, vectors: np.ndarray, group: Sequence[int], shares: Sequence[float], round: int, first: bool
    ) -> None:
        """total [P] + Σ_k weight_k · vectors_k, or what crosses of it if every one is masked. first: over what total held."""
        weights = [1.0] * len(group) if self.dp.where != "none" else shares
        if self.masks is None:
            add_weighted(total, vectors, weights, first)
            return
        masks = self.masks(round)
        if first:
            total.fill(0)
        for client, vector, weight in zip(group, vectors, weights, strict=True):
            if client not in masks.lost:
                total += masks.masked(vector * np.float64(weight), client)

    def cost(self, client: int, round: int, whole: Cost) -> Cost:
        """Bytes up and down by role, if `whole` is what the bare payloads cost."""
        if not self.on:
            return whole
        (up, down), extra = whole, BYTES * self.bits
        up = self.codec.cost() if self.codec else up
        if self.codec and self.dp.where == "central" and self.codec.told.kind in ("fp16", "bf16"):
            up = {**up, CLIP: BYTES}  # the factor of the last clip; the others have scales and values that it is a part of
        if self.bits:
            up, down = {**up, CLIP: up.get(CLIP, 0) + extra}, {**down, CLIP: extra}
        if self.masks is None:
            return up, down
        masks, wide = self.masks(round), np.dtype(np.uint64).itemsize // BYTES
        more = masks.cost(client)
        up = {} if client in masks.lost else {role: wide * n for role, n in up.items()}
        return {**up, PROTOCOL: more[0]}, {**down, PROTOCOL: more[1]}

    def _private_(self, change: np.ndarray, clip: float, client: int, round: int) -> bool:
        """Clips and, where noise is the client's own, noises a change. Whether it was no longer than the clip."""
        if self.dp.where == "none":
            return True
        n = split(self.up)
        below = clipping.clip_(change[:n], clip) <= clip
        clipping.clip_(change[n:], self.dp.aux_clip or 0.0)
        if self.dp.where == "local":
            rng, z = generator(self.seed, client, round, clipping.CLIENT), self._multiplier
            clipping.noise_(change[:n], z * clip, rng)
            clipping.noise_(change[n:], z * (self.dp.aux_clip or 0.0), rng)
        return below

    def _smaller_(self, change: np.ndarray, clip: float, client: int, round: int, rest: np.ndarray | None) -> None:
        """What arrives of a change. Rounding and what was remembered may lengthen it: the server's noise asks for a last clip."""
        if self.codec is None:
            return
        if rest is not None:
            change += rest
            rest[:] = change
        self.codec.squeeze_(change, generator(self.seed, client, round, ROUNDING))
        if self.dp.where == "central":
            n = split(self.up)
            clipping.clip_(change[:n], clip)
            clipping.clip_(change[n:], self.dp.aux_clip or 0.0)
        if rest is not None:
            rest -= change

    def _clip(self, sent: np.ndarray) -> float:
        """The server sends it where it has moved."""
        return float(sent[-1]) if len(sent) > self.down.numbers else self.dp.clip

    @property
    def _multiplier(self) -> float:
        return clipping.multiplier(self.dp, self.job.cohort, rules.groups(self.up))

    def _masks(self, round: int) -> Masks:
        return Masks(self.job.experiment.privacy.secure_aggregation, self.seed, round, self.job.taking_part(round))


def methods_own(mine: ClientState) -> ClientState:
    """What a client owns, without what no method knows of."""
    if RESIDUAL not in mine.memory:
        return mine
    return ClientState(mine.weights, {n: t for n, t in mine.memory.items() if n != RESIDUAL})


def remembering(mine: ClientState, rest: Tensor | None) -> ClientState:
    """The same with it."""
    return mine if rest is None else ClientState(mine.weights, {**mine.memory, RESIDUAL: rest})
