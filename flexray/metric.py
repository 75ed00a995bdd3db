"""The contract of a metric: counts that add up over batches, clients and nodes, and what to read from their sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexray.folder import Entry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """What the model made of B rows: response tokens, and per row their loss and the greedy hits among them.

    A row's `hits == tokens` exactly when greedy decoding gives the reference, token for token: each step sees the
    reference's prefix, so the first miss is the first difference.
    """

    nll: Tensor
    """[B] sum of −log p over the row's response tokens, in nats."""
    tokens: Tensor
    """[B] response tokens."""
    hits: Tensor
    """[B] response tokens that are the model's most likely ones."""


@dataclass(frozen=True)
class Metric(Entry, ABC):
    """A family of numbers. Law: `count` of two batches adds up to `count` of both, so counts merge in any order."""

    @abstractmethod
    def count(self, scored: Scored) -> dict[str, float]:
        """Sums over the rows. Keys are this metric's own."""

    @abstractmethod
    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        """The numbers to report, from the summed counts: name to value."""


def merge(x: Mapping[str, float], y: Mapping[str, float]) -> dict[str, float]:
    """Counts added up; a key absent on one side counts zero there."""
    return {key: x.get(key, 0.0) + y.get(key, 0.0) for key in {**x, **y}}
