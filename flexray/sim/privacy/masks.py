"""Secure aggregation, simulated: masks that cancel in the sum, whole numbers modulo 2⁶⁴, clients that are lost on the way.

Bonawitz et al. 2017 (CCS, "Practical secure aggregation for privacy-preserving machine learning"); with few neighbours each, on a
ring in random order, Bell et al. 2020 (CCS, "Secure single-server aggregation with (poly)logarithmic overhead"). Seeds come from the
run's seed instead of key agreement, so nothing is hidden from whoever has the config.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from flexray.errors import RunError
from flexray.sections_privacy import SecureAggregation
from flexray.sim.privacy.change import generator

ORDER, LOST, SELF, PAIR = 0x0DE5, 0x1057, 0x5E1F, 0x9A12
"""What random numbers are for, as a key of theirs."""
KEYS, SHARES, ONE, NAME = 64, 100, 32, 4
"""Bytes: a client's two public keys; two encrypted shares for a neighbour (2·32, nonce, tag, two names); one share given back; a name."""


@dataclass(frozen=True)
class Masks:
    """One round's, among the clients of its cohort. gone: of these who never sent anything, for whatever other reason."""

    told: SecureAggregation
    seed: int
    round: int
    cohort: tuple[int, ...]
    gone: frozenset[int] = frozenset()

    def masked(self, values: np.ndarray, client: int) -> np.ndarray:
        """What a client sends of its weighted values [P]: uint64 [P], uniform for whoever lacks one of the seeds."""
        found = quantised(values, self.told.fraction_bits, len(self.cohort))
        found += self._self(client, len(found))
        for other in self.neighbours(client):
            self._pair_(found, client, other, client < other)
        return found

    def opened(self, total: np.ndarray) -> np.ndarray:
        """The sum [P], float64, from that of what those sent who were not lost: their own masks, and the halves of pairs whose other
        half was lost, are made again from shares, and taken off."""
        self._check_shares()
        total = total.copy()
        for client in self.there:
            total -= self._self(client, len(total))
            for other in self.neighbours(client):
                if other in self.lost:
                    self._pair_(total, client, other, client > other)
        return total.view(np.int64).astype(np.float64) / 2.0**self.told.fraction_bits

    def neighbours(self, client: int) -> tuple[int, ...]:
        """With whom a client shares masks: all others, or those next to it on the ring."""
        ring, at = self._ring
        if client not in at:
            return ()
        if self.told.num_shares is None or self.told.num_shares >= len(ring) - 1:
            return tuple(other for other in self.cohort if other != client)
        near = range(1, self.told.num_shares // 2 + 1)
        return tuple(ring[(at[client] + sign * step) % len(ring)] for step in near for sign in (1, -1))

    @cached_property
    def lost(self) -> frozenset[int]:
        """Who drops out after the keys were agreed."""
        rng = generator(self.seed, self.round, LOST)
        return self.gone.union(rng.permutation(self.cohort)[: int(self.told.dropout * len(self.cohort) + 1e-9)].tolist())

    @property
    def there(self) -> tuple[int, ...]:
        return tuple(c for c in self.cohort if c not in self.lost)

    def cost(self, client: int) -> tuple[int, int]:
        """Bytes up and down besides the masked numbers: keys, a pair of shares for each neighbour, who is left, a share of each."""
        n, stays = len(self.neighbours(client)), client not in self.lost
        return KEYS + n * SHARES + n * ONE * stays, n * (KEYS + SHARES) + n * NAME * stays

    def _check_shares(self) -> None:
        if len(self.cohort) < 2:
            raise RunError(
                f"round {self.round}: secure aggregation hides nothing among {len(self.cohort)} clients; raise cohort"
            )
        for client in self.cohort:
            near = self.neighbours(client)
            left, least = sum(c not in self.lost for c in near), ceil(self.told.reconstruction_threshold * len(near))
            if left < least:
                raise RunError(
                    f"round {self.round}: of the {len(near)} who hold shares of client {client}'s keys {left} are left, and {least} are "
                    "needed; lower privacy.secure_aggregation.dropout or reconstruction_threshold, or raise num_shares"
                )

    @cached_property
    def _ring(self) -> tuple[list[int], dict[int, int]]:
        ring = generator(self.seed, self.round, ORDER).permutation(self.cohort).tolist()
        return ring, {client: i for i, client in enumerate(ring)}

    def _self(self, client: int, numbers: int) -> np.ndarray:
        return _stream(numbers, self.seed, self.round, client, SELF)

    def _pair_(self, values: np.ndarray, one: int, other: int, plus: bool) -> None:
        """Adds what two share, or takes it off."""
        mask = _stream(len(values), self.seed, self.round, min(one, other), max(one, other), PAIR)
        (np.add if plus else np.subtract)(values, mask, out=values)


def quantised(values: np.ndarray, bits: int, clients: int) -> np.ndarray:
    """[P] as whole numbers of 2^−bits, modulo 2⁶⁴. Raises if the sum of so many could go beyond ±2⁶³: it could not be told from another."""
    steps = np.rint(values.astype(np.float64) * 2.0**bits)
    if not np.abs(steps).max(initial=0) < 2.0**63 / max(clients, 1):
        raise FloatingPointError(
            "an update is too large for secure aggregation's whole numbers; lower privacy.secure_aggregation.fraction_bits"
        )
    return steps.astype(np.int64).view(np.uint64)


def _stream(numbers: int, *key: int) -> np.ndarray:
    """uint64 [P], uniform."""
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(numbers)
