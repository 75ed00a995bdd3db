"""Token accuracy: the share of response tokens that are the model's most likely ones, given the reference before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flexray.metric import Metric, Number, Scored

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenAccuracy(Metric):
    """Σ hits / Σ tokens."""

    numbers: ClassVar = {"token_accuracy": Number("token accuracy %", scale=100, decimals=1)}

    def count(self, scored: Scored) -> dict[str, Tensor]:
        return {"hits": scored.hits, "tokens": scored.tokens}

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"token_accuracy": counts["hits"] / counts["tokens"]}
