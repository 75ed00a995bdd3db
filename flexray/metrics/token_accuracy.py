"""Token accuracy: the share of response tokens that are the model's most likely ones, given the reference before them."""

from collections.abc import Mapping
from dataclasses import dataclass

from flexray.metric import Metric, Scored


@dataclass(frozen=True)
class TokenAccuracy(Metric):
    """Σ hits / Σ tokens."""

    def count(self, scored: Scored) -> dict[str, float]:
        return {"hits": float(scored.hits.sum().item()), "answer_tokens": float(scored.tokens.sum().item())}

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"token_accuracy": counts["hits"] / counts["answer_tokens"]}
