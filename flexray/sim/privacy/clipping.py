"""Differential privacy of whole clients: bounded changes, Gaussian noise, and a clip that follows the norms.

DP-FedAvg of McMahan et al. 2018 (arXiv 1710.06963); the adaptive clip of Andrew et al. 2021 (arXiv 1905.03871).
"""

from __future__ import annotations

from math import exp, sqrt

import numpy as np

from flexray.sections_privacy import Dp

BELOW = 1 - 2.0**-20
"""Of the bound: rounding to float32 must not carry a clipped change over it."""
CLIENT, SERVER = 0xC117, 0x5E17
"""What noise is for, as a key of its random numbers."""


def clip_(change: np.ndarray, most: float) -> float:
    """Shortens a change [N] in place to an L2 norm of at most `most`; gives the norm it had."""
    norm = float(np.linalg.norm(change.astype(np.float64)))
    if not np.isfinite(norm):
        raise FloatingPointError("an update is not finite: it cannot be clipped; lower train.lr, or set train.clip")
    if norm > most:
        change *= np.float32(most / norm * BELOW)
    return norm


def noise_(vector: np.ndarray, stddev: float, rng: np.random.Generator) -> None:
    """Adds Gaussian noise to [N] in place."""
    if stddev and len(vector):
        vector += rng.standard_normal(len(vector), np.float32) * np.float32(stddev)


def count_stddev(dp: Dp, cohort: int) -> float:
    """Of the noise on how many clients are below the clip; a twentieth of the cohort, as its authors advise."""
    return dp.adaptive.count_stddev or cohort / 20


def multiplier(dp: Dp, cohort: int, groups: int) -> float:
    """The noise on each group of tensors over its clip, so that all that is released of a round together is a Gaussian mechanism of
    `dp.noise_multiplier`.

    G groups, each over its own clip: √G times as much. The count of who is below changes by ±1/2 with a client: with noise σ_b on it
    z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2) is left to the changes (Andrew et al., theorem 1).
    """
    z = dp.noise_multiplier
    if dp.adaptive.quantile is not None and z:
        z = (z**-2 - (2 * count_stddev(dp, cohort)) ** -2) ** -0.5
    return sqrt(groups) * z


def next_clip(dp: Dp, clip: float, below: float) -> float:
    """C ← C·exp(−clip_norm_lr·(b − quantile)): b is the noisy share of clients whose change was not longer than C."""
    assert dp.adaptive.quantile is not None
    return clip * exp(-dp.adaptive.clip_norm_lr * (below - dp.adaptive.quantile))
