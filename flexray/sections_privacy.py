"""The sections of an experiment that say what may be learnt from updates, and how they are made smaller."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexray.sections import Section


class Adaptive(Section):
    """A clip that follows the norms of what clients change (Andrew et al. 2021)."""

    quantile: float | None = Field(default=None, gt=0, lt=1)
    """The share of clients that shall be below it; null: the clip stays as it is."""
    clip_norm_lr: float = Field(default=0.2, gt=0)
    """The learning rate of its logarithm."""
    count_stddev: float | None = Field(default=None, gt=0)
    """Of the noise on how many are below; null: a twentieth of the cohort."""


class Dp(Section):
    """Differential privacy of whole clients."""

    where: Literal["none", "central", "local"] = "none"
    """`central`: the server adds noise to the sum; `local`: every client to its own change."""
    clip: float = Field(default=1.0, gt=0)
    """The largest L2 norm that a client's change may have; the first one where it is adaptive."""
    adaptive: Adaptive = Adaptive()
    aux_clip: float | None = Field(default=None, gt=0)
    """The same of what a method sends besides; without it such methods are refused."""
    noise_multiplier: float = Field(default=1.0, ge=0)
    """The noise's standard deviation over the clip."""
    epsilon: float | None = Field(default=None, gt=0)
    """What may be spent over all rounds: the noise multiplier is found for it."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """The δ at which ε is told; below one over the number of clients."""
    sampling: Literal["poisson", "fixed"] = "poisson"
    """Who takes part in a round: everybody flips a coin, or always as many are drawn."""
    accountant: Literal["rdp", "pld"] = "rdp"
    """Of the library dp-accounting: Rényi divergences, or privacy loss distributions, tighter and slower."""


class SecureAggregation(Section):
    """The server learns the sum only: pairwise masks that cancel (Bonawitz et al. 2017), simulated."""

    protocol: Literal["none", "secagg"] = "none"
    """`secagg` masks what clients send."""
    num_shares: int | None = Field(default=None, ge=2)
    """Neighbours with whom a client shares masks and secrets, on a ring (Bell et al. 2020); null: the whole cohort."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """The share of a cohort that is lost after keys are agreed."""
    reconstruction_threshold: float = Field(default=0.5, gt=0, le=1)
    """The share of those who hold a client's secrets that must be left to take its masks out."""
    fraction_bits: int = Field(default=40, ge=8, le=52)
    """Of the 64 bits of every number, those behind the point."""


class Privacy(Section):
    """What the server may learn from clients' updates; all of it is off at first."""

    dp: Dp = Dp()
    secure_aggregation: SecureAggregation = SecureAggregation()


class Compress(Section):
    """What a client changed, made smaller before it is sent."""

    kind: Literal["none", "fp16", "bf16", "int8", "topk"] = "none"
    """Fewer bits for each number, or only the largest numbers."""
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    """Of int8: `stochastic` is without bias."""
    keep: float = Field(default=0.01, gt=0, le=1)
    """Of top-k: the share of each tensor's numbers that is sent."""
    feedback: bool = True
    """Of top-k: what is not sent is remembered, and added in the client's next round."""
