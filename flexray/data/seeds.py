"""Random generators, each an independent pure function of the run's seed, a purpose and a place."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a generator is for: two purposes never share a stream. Numbers are part of a run's identity: never reuse one."""

    SHARES = 1
    DEAL = 2
    CUT = 3
    LIMIT = 4
    ORDER = 5
    OVERLAP = 6
    CENTRAL = 7


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """`place`: non-negative numbers such as a client's and a round's."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *place)))
