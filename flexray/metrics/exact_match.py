"""Exact match: the share of rows that greedy decoding answers with the reference, token for token."""

from collections.abc import Mapping
from dataclasses import dataclass

from flexray.metric import Metric, Scored


@dataclass(frozen=True)
class ExactMatch(Metric):
    """Rows whose response, its end mark included, is the model's most likely one at every step."""

    def count(self, scored: Scored) -> dict[str, float]:
        return {"exact": float((scored.hits == scored.tokens).sum().item()), "rows": float(len(scored.tokens))}

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"exact_match": counts["exact"] / counts["rows"]}
