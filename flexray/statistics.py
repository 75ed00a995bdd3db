"""Paired comparison of methods that were scored on the same rows: a hierarchical bootstrap, and Holm's correction.

Every resample is drawn once and serves all methods, so that what makes a row or a client hard cancels in a difference.
Shape suffixes: B resamples, S seeds, C clients, N rows of one client, U rows of all clients, D draws, M methods, Q counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Value = Callable[[np.ndarray], np.ndarray]
"""From summed counts […, Q] to a number […]."""
LEVELS = ("seeds", "clients", "rows")
"""What may be resampled."""
CELLS = 1 << 22
"""Numbers in one array of weights: 32 MB."""


@dataclass(frozen=True)
class Held:
    """One client's scored rows under one seed.

    rows_N tells rows apart over clients and seeds alike; counts_NMQ is what each method made of them, NaN for a method
    that was not run with this seed.
    """

    rows_N: np.ndarray
    counts_NMQ: np.ndarray


Scored = Sequence[Sequence[Held]]
"""By seed, by client."""


@dataclass(frozen=True)
class Difference:
    """By how much two methods differ: its interval, and the probability of one as large by chance (two-sided)."""

    value: float
    low: float
    high: float
    p: float


def scores(scored: Scored, value: Value) -> np.ndarray:
    """[S, M] the mean over clients of a number, each from the sums of its own counts."""
    with np.errstate(all="ignore"):
        return np.stack([np.mean([value(held.counts_NMQ.sum(0)) for held in clients], 0) for clients in scored])


def bootstrap(
    scored: Scored, values: Mapping[str, Value], resamples: int, over: Sequence[str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """[B, S, M] the scores of resampled clients and of rows resampled within each of them, for every number.

    A row that is scored several times never counts as several. Where each client has the same rows under all seeds, the
    seeds share their draws; where no row comes twice, the seeds are drawn on their own; else (rows dealt anew by every
    seed, or held by several clients) a row has one weight wherever it is, exponential as in the Bayesian bootstrap.
    """
    with np.errstate(all="ignore"):
        if _same_rows(scored) and _all_different(scored[0]):
            seeds, methods = len(scored), scored[0][0].counts_NMQ.shape[1]
            stacked = [Held(c[0].rows_N, np.concatenate([h.counts_NMQ for h in c], 1)) for c in zip(*scored, strict=True)]
            found = _nested(stacked, values, resamples, over, rng)
            return {name: total_BM.reshape(resamples, seeds, methods) for name, total_BM in found.items()}
        if _all_different([held for clients in scored for held in clients]):
            each = [_nested(clients, values, resamples, over, rng) for clients in scored]
            return {name: np.stack([one[name] for one in each], 1) for name in values}
        return _crossed(scored, values, resamples, over, rng)


def difference(
    a_S: np.ndarray, b_S: np.ndarray, a_BS: np.ndarray, b_BS: np.ndarray, alpha: float, over: Sequence[str], rng: np.random.Generator
) -> Difference:  # fmt: skip
    """a − b over the seeds that both have: scores [S] and their resamples [B, S]. The interval holds 1 − alpha of the draws.

    p = 2 · min(draws ≤ 0, draws ≥ 0), the observed one counted among them: never below 2 / (B + 1).
    """
    both = np.isfinite(a_S - b_S)
    draws_BS = (a_BS - b_BS)[:, both]
    seeds = int(both.sum())
    weights_BS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(draws_BS)) if "seeds" in over else 1
    draws_B = (draws_BS * weights_BS).sum(1) / seeds
    draws_B = draws_B[np.isfinite(draws_B)]
    low, high = np.quantile(draws_B, [alpha / 2, 1 - alpha / 2])
    tail = 1 + min((draws_B <= 0).sum(), (draws_B >= 0).sum())
    return Difference(float((a_S - b_S)[both].mean()), float(low), float(high), min(1.0, float(2 * tail / (len(draws_B) + 1))))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted for several tests at once (Holm 1979): the i-th smallest of n times n − i, never below a smaller one's."""
    adjusted, least = [0.0] * len(ps), 0.0
    for i, place in enumerate(np.argsort(ps, kind="stable").tolist()):
        least = max(least, min(1.0, (len(ps) - i) * ps[place]))
        adjusted[place] = least
    return adjusted


def _same_rows(scored: Scored) -> bool:
    first = scored[0]
    return all(
        len(clients) == len(first) and all(np.array_equal(a.rows_N, b.rows_N) for a, b in zip(clients, first, strict=True))
        for clients in scored[1:]
    )


def _all_different(clients: Sequence[Held]) -> bool:
    rows = np.concatenate([held.rows_N for held in clients])
    return len(np.unique(rows)) == len(rows)


def _nested(
    clients: Sequence[Held], values: Mapping[str, Value], resamples: int, over: Sequence[str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """[B, M] one seed: every draw of a client draws its rows anew."""
    times_BC, methods = _times(len(clients), resamples, over, rng), clients[0].counts_NMQ.shape[1]
    total = {name: np.zeros((resamples, methods)) for name in values}
    for held, times_B in zip(clients, times_BC.T, strict=True):
        where_D = np.repeat(np.arange(resamples), times_B)
        for part_D in _parts(where_D, len(held.rows_N)):
            sums_DMQ = np.tensordot(_weights(len(part_D), len(held.rows_N), over, rng), held.counts_NMQ, 1)
            for name, value in values.items():
                np.add.at(total[name], part_D, value(sums_DMQ))
    return {name: total_BM / len(clients) for name, total_BM in total.items()}


def _crossed(
    scored: Scored, values: Mapping[str, Value], resamples: int, over: Sequence[str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """[B, S, M] several seeds: clients drawn in each of them, a row's weight the same wherever it is."""
    rows_U = np.unique(np.concatenate([held.rows_N for clients in scored for held in clients]))
    times = [_times(len(clients), resamples, over, rng) for clients in scored]
    total = {name: np.zeros((resamples, len(scored), scored[0][0].counts_NMQ.shape[1])) for name in values}
    for part_D in _parts(np.arange(resamples), len(rows_U)):
        shape = (len(part_D), len(rows_U))
        weights_DU = rng.standard_exponential(shape) if "rows" in over else np.ones(shape)
        for s, clients in enumerate(scored):
            for c, held in enumerate(clients):
                weights_DN = weights_DU[:, np.searchsorted(rows_U, held.rows_N)]
                sums_DMQ = np.tensordot(weights_DN, held.counts_NMQ, 1)
                for name, value in values.items():
                    total[name][part_D, s] += times[s][part_D, c, None] * value(sums_DMQ) / len(clients)
    return total


def _times(clients: int, resamples: int, over: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """[B, C] how often each client is drawn."""
    if "clients" not in over:
        return np.ones((resamples, clients), int)
    return rng.multinomial(clients, np.full(clients, 1 / clients), size=resamples)


def _weights(draws: int, rows: int, over: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """[D, N] how often each row is drawn."""
    if "rows" not in over:
        return np.ones((draws, rows))
    drawn_DN = rng.integers(rows, size=(draws, rows)) + rows * np.arange(draws)[:, None]
    return np.bincount(drawn_DN.ravel(), minlength=draws * rows).reshape(draws, rows).astype(float)


def _parts(where_D: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """As many draws at once as memory allows."""
    size = max(1, CELLS // rows)
    yield from (where_D[i : i + size] for i in range(0, len(where_D), size))
