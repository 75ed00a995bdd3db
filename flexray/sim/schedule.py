"""Who takes part in a round, who sits with whom, at which learning rate: pure functions of seed, round and settings."""

from collections.abc import Sequence
from itertools import pairwise
from math import cos, pi
from typing import TypeVar

import numpy as np

Group = tuple[int, ...]
"""Clients (their numbers) that train in one forward; at most `seats` of them."""

T = TypeVar("T")

SLICES = 128
"""At most so many leaves of a round's sum. A constant, so that the order of addition never depends on the actors."""


def cohort(seed: int, round: int, population: int, size: int | float | None) -> tuple[int, ...]:
    """The clients of a round, in ascending order. `size`: a number, a share of the population, or None for all."""
    if size is None:
        return tuple(range(population))
    return tuple(sorted(drawn_from(seed, round, population, cohort_size(population, size)).tolist()))


def drawn_from(seed: int, round: int, population: int, n: int, again: int = 0) -> np.ndarray:
    """[n] different ones of a population, in no order. again: which drawing of the round it is."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, round, 0xC0407, *([again] if again else [])]))
    return rng.choice(population, n, replace=False)


def flipped(seed: int, round: int, population: int, share: float) -> tuple[int, ...]:
    """The clients of a round where each flips a coin of its own that says yes with probability `share`; it may be nobody."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, round, 0xF11B]))
    return tuple(np.flatnonzero(rng.random(population) < share).tolist())


def cohort_size(population: int, size: int | float | None) -> int:
    """How many take part in a round."""
    if size is None:
        return population
    return max(1, round_half_up(size * population)) if isinstance(size, float) else min(size, population)


def round_half_up(x: float) -> int:
    return int(x + 0.5)


def groups(clients: Sequence[int], seats: int) -> tuple[Group, ...]:
    """Clients in their order, `seats` at a time; the last group may be smaller."""
    return tuple(tuple(clients[i : i + seats]) for i in range(0, len(clients), seats))


def longest_first(clients: Sequence[int], work: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """Clients by their work (of every client), the largest first: who sits together works alike, and nobody waits for a late giant."""
    own = np.asarray(work)[list(clients)]
    return tuple(clients[i] for i in np.argsort(-own, kind="stable").tolist())


def slices(groups: Sequence[Group], limit: int = SLICES) -> tuple[tuple[Group, ...], ...]:
    """Groups in their order, divided as evenly as can be into at most `limit` slices.

    A slice is summed in order, and sums are added up along a tree over all slices (see `Fold`), so the result is the same to
    the bit whoever trains which slice.
    """
    bounds = np.linspace(0, len(groups), min(limit, len(groups)) + 1).astype(int)
    return tuple(tuple(groups[a:b]) for a, b in pairwise(bounds))


def dealt(slices: Sequence[T]) -> list[T]:
    """Slices that get ever shorter, put in an order in which each half of the tree over them, and each half of a half, has as much to
    do as the other: they are dealt to both halves in turn."""
    return [*dealt(slices[0::2]), *dealt(slices[1::2])] if len(slices) > 1 else [*slices]


def regions(slices: int, actors: int) -> list[range]:
    """Neighbouring slices for each actor: with 2, 4, 8, … of them whole subtrees."""
    return _regions(range(slices), actors)


def _regions(among: range, actors: int) -> list[range]:
    if actors % 2:
        bounds = [among.start - (-len(among) * a // actors) for a in range(actors + 1)]
        return [range(a, b) for a, b in pairwise(bounds)]
    middle = -(-len(among) // 2)
    return [*_regions(among[:middle], actors // 2), *_regions(among[middle:], actors // 2)]


def chunks(count: int, parts: int, least: int, most: int) -> list[tuple[int, int]]:
    """`count` things in chunks of one part of what is left, at least and at most so many: the bounds of each."""
    found, at = [], 0
    while at < count:
        size = max(least, min(most, (count - at) // parts))
        found.append((at, min(at + size, count)))
        at += size
    return found


def learning_rate(first: float, last: float, round: int, rounds: int) -> float:
    """Cosine over rounds, from `first` in round 0 to `last` in the last one; constant within a round."""
    if rounds == 1:
        return first
    round = min(round, rounds - 1)  # what is trained after the last round, to be served, takes the last rate
    return last + (first - last) * (1 + cos(pi * round / (rounds - 1))) / 2
