"""The contract of a metric: counts of every row that add up over rows, clients and nodes, and what to read from their sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

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
    texts: Sequence[str | None] = ()
    """[B] what the model answers by itself (greedy decoding), None where it was not asked; for `needs_generation` only."""
    references: Sequence[str] = ()
    """[B] the responses; for `needs_generation` only."""


@dataclass(frozen=True)
class Answered:
    """What the model made of B multiple-choice questions of at most C choices."""

    nll: Tensor
    """[B, C] sum of −log p over the choice's tokens, in nats; infinite where a question has fewer choices."""
    lengths: Tensor
    """[B, C] the choice's UTF-8 bytes, at least 1."""
    answers: Tensor
    """[B] the right choice."""


@dataclass(frozen=True)
class Number:
    """How a number reads: its title, what to multiply it by, its decimals, whether less is better.

    shown: in tables; run folders have all numbers.
    """

    title: str
    less: bool = False
    scale: float = 1.0
    decimals: int = 3
    shown: bool = True


@dataclass(frozen=True)
class Metric(Entry, ABC):
    """A family of numbers. Law: a row's counts depend on that row alone, so counts of any rows add up, in any order.

    needs_generation: rows come with texts. needs_probe: it counts the questions of evaluation.probe instead of rows.
    numbers: by name; those left out are better when more.
    """

    needs_generation: ClassVar[bool] = False
    needs_probe: ClassVar[bool] = False
    numbers: ClassVar[Mapping[str, Number]] = {}

    @abstractmethod
    def count(self, scored: Any) -> dict[str, Tensor]:
        """Counts of each row [B], from `Scored`, or with `needs_probe` from `Answered`.

        Keys of two metrics are the same only if they count the same.
        """

    @abstractmethod
    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        """The numbers to report, from the summed counts of this metric (and of others): name to value."""

    @classmethod
    def number(cls, name: str) -> Number:
        """How one of its numbers reads."""
        return cls.numbers.get(name) or Number(name.replace("_", " "))

    @classmethod
    def less(cls, name: str) -> bool:
        """Whether less of one of its numbers is better."""
        return cls.number(name).less
