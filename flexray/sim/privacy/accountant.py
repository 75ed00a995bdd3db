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
    return _counted(dp, population, cohort, times)


def replaces(dp: Dp) -> bool:
    """Whether neighbouring data have the client replaced, not added or removed."""
    return dp.where == "local" or dp.sampling == "fixed"


@lru_cache(4096)
def _counted(dp: Any, population: int, cohort: int, times: int) -> float:
    import dp_accounting as dp_
    from dp_accounting import pld, rdp

    relation = dp_.NeighboringRelation.REPLACE_ONE if replaces(dp) else dp_.NeighboringRelation.ADD_OR_REMOVE_ONE
    with _quiet():
        kind: Any = pld.PLDAccountant if dp.accountant == "pld" else rdp.RdpAccountant
        accountant = kind(neighboring_relation=relation)
        accountant.compose(_event(dp, population, cohort), times)
        return float(accountant.get_epsilon(dp.delta))


def _event(dp: Dp, population: int, cohort: int) -> Any:
    """One round, or one update. The library takes noise over what a neighbour can change."""
    import dp_accounting as dp_

    event = dp_.GaussianDpEvent(dp.noise_multiplier / (2 if replaces(dp) else 1))
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
