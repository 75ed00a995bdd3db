"""ε of what was released, by Google's dp-accounting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from math import inf
from typing import Any

from flexray.errors import expected
from flexray.sections_privacy import Dp

NEEDS = "dp_accounting"
LEAST = 0.05
"""Noise multiplier that is looked for: with less of it ε is in the hundreds."""
TIGHTER = 0.7
"""The least noise by privacy loss distributions over that by Rényi divergence, for one and the same ε."""


def check_there() -> None:
    """Raises ConfigError where the library is missing."""
    if find_spec(NEEDS) is None:
        raise expected("privacy.dp.where", "the package dp-accounting, which counts ε", None, "pip install 'flexray[privacy]'")


def epsilon(dp: Dp, population: int, cohort: int, times: int) -> float:
    """What a client's presence can be told by, after so many rounds (central), or so many of the client's own updates (local).

    Neighbours: with `sampling: poisson`, and the noise the server's, data with and without the client; else data in which the client's
    are replaced by any others, which can change a sum by twice the clip.
    """
    if times == 0 or not dp.noise_multiplier:
        return inf if times else 0.0
    plain: Any = dp  # hashable, as it is frozen
    return _counted(plain, population, cohort, times)


def replaces(dp: Dp) -> bool:
    """Whether neighbouring data have the client replaced, not added or removed."""
    return dp.where == "local" or dp.sampling == "fixed"


def multiplier_for(dp: Dp, population: int, cohort: int, times: int) -> float:
    """The least noise multiplier with which `times` rounds, or updates, cost at most `dp.epsilon`."""
    import dp_accounting as dp_
    from dp_accounting.mechanism_calibration import NoBracketIntervalFoundError

    def spent(z: float) -> Any:
        return dp_.SelfComposedDpEvent(_event(dp, population, cohort, z), times)

    assert dp.epsilon is not None
    if (
        dp.accountant == "rdp"
        and epsilon(dp.model_copy(update={"noise_multiplier": LEAST}), population, cohort, times) <= dp.epsilon
    ):
        return LEAST
    try:
        with _quiet():
            between = dp_.LowerEndpointAndGuess(LEAST, 1.0)
            if (
                dp.accountant == "pld"
            ):  # which takes very long where there is little noise, and never needs more of it than the other
                most = multiplier_for(dp.model_copy(update={"accountant": "rdp"}), population, cohort, times)
                between = dp_.ExplicitBracketInterval(max(LEAST, TIGHTER * most), most)
            return float(dp_.calibrate_dp_mechanism(lambda: _accountant(dp), spent, dp.epsilon, dp.delta, between, tol=1e-3))
    except (NoBracketIntervalFoundError, ValueError):  # the latter where a bracket holds no solution
        mend = "raise it, lower rounds, or set privacy.dp.accountant to rdp"
        raise expected("privacy.dp.epsilon", "what the accountant can tell of some noise", dp.epsilon, mend) from None


@lru_cache(4096)
def _counted(dp: Any, population: int, cohort: int, times: int) -> float:
    with _quiet():
        accountant = _accountant(dp)
        accountant.compose(_event(dp, population, cohort, dp.noise_multiplier), times)
        return float(accountant.get_epsilon(dp.delta))


def _accountant(dp: Dp) -> Any:
    import dp_accounting as dp_
    from dp_accounting import pld, rdp

    relation = dp_.NeighboringRelation.REPLACE_ONE if replaces(dp) else dp_.NeighboringRelation.ADD_OR_REMOVE_ONE
    kind: Any = pld.PLDAccountant if dp.accountant == "pld" else rdp.RdpAccountant
    return kind(neighboring_relation=relation)


def _event(dp: Dp, population: int, cohort: int, z: float) -> Any:
    """One round, or one update, with noise of z clips. The library takes noise over what a neighbour can change."""
    import dp_accounting as dp_

    event = dp_.GaussianDpEvent(z / (2 if replaces(dp) else 1))
    if dp.where == "local" or cohort == population:
        return event
    if dp.sampling == "poisson":
        return dp_.PoissonSampledDpEvent(cohort / population, event)
    return dp_.SampledWithoutReplacementDpEvent(population, cohort, event)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library tells of every order of Rényi divergence that it leaves out; ε is right without them."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
