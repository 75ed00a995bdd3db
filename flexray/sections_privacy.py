"""The sections of an experiment that say what may be learnt from updates, and how they are made smaller."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexray.sections import Section


class Adaptive(Section):
    """A clip that follows the norms: so that a share `quantile` of the clients is below it (Andrew et al. 2021); null: it stays.

    clip_norm_lr: of its logarithm. count_stddev: of the noise on how many are below; null: a twentieth of the cohort.
    """

    quantile: float | None = Field(default=None, gt=0, lt=1)
    clip_norm_lr: float = Field(default=0.2, gt=0)
    count_stddev: float | None = Field(default=None, gt=0)


class Dp(Section):
    """Differential privacy of whole clients. central: the server adds noise to the sum; local: every client to its own change.

    noise_multiplier: the noise's standard deviation over the clip; or epsilon, for which it is found, to be spent over all rounds.
    clip: the largest L2 norm that a client's change may have, the first one where it is adaptive; aux_clip: that of what a method
    sends besides. sampling: everybody flips a coin (`poisson`),
    or always as many take part (`fixed`). accountant: of the library dp-accounting.
    """

    where: Literal["none", "central", "local"] = "none"
    clip: float = Field(default=1.0, gt=0)
    adaptive: Adaptive = Adaptive()
    aux_clip: float | None = Field(default=None, gt=0)
    noise_multiplier: float = Field(default=1.0, ge=0)
    epsilon: float | None = Field(default=None, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    sampling: Literal["poisson", "fixed"] = "poisson"
    accountant: Literal["rdp", "pld"] = "rdp"


class SecureAggregation(Section):
    """The server learns the sum only: pairwise masks that cancel (Bonawitz et al. 2017; with num_shares neighbours each, Bell et al.
    2020), simulated.

    dropout: the share of a cohort that is lost after keys are agreed; of those who hold a client's shares, at least the share
    reconstruction_threshold must be left. fraction_bits: of the 64 of every number, those behind the point.
    """

    protocol: Literal["none", "secagg"] = "none"
    num_shares: int | None = Field(default=None, ge=2)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    reconstruction_threshold: float = Field(default=0.5, gt=0, le=1)
    fraction_bits: int = Field(default=40, ge=8, le=52)


class Privacy(Section):
    """What the server may learn from clients' updates; all of it is off at first."""

    dp: Dp = Dp()
    secure_aggregation: SecureAggregation = SecureAggregation()


class Compress(Section):
    """What a client changed, made smaller before it is sent.

    rounding: of int8, `stochastic` without bias. keep: of top-k, the share of each tensor's numbers that is sent; feedback: what is
    not sent is remembered, and added in the client's next round.
    """

    kind: Literal["none", "fp16", "bf16", "int8", "topk"] = "none"
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    keep: float = Field(default=0.01, gt=0, le=1)
    feedback: bool = True
