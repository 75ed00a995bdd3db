"""Exact match: the share of rows that greedy decoding answers with the reference, token for token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flexray.metric import Metric, Number, Scored

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ExactMatch(Metric):
    """Rows whose response, its end mark included, is the model's most likely one at every step."""

    numbers: ClassVar = {"exact_match": Number("exact match %", scale=100, decimals=1)}

    def count(self, scored: Scored) -> dict[str, Tensor]:
        return {"exact": scored.hits == scored.tokens, "rows": scored.tokens.new_ones(len(scored.tokens))}

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"exact_match": counts["exact"] / counts["rows"]}
