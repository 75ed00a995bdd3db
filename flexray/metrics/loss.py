"""Loss and perplexity of the response, per token."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from flexray.metric import Metric, Scored


@dataclass(frozen=True)
class Loss(Metric):
    """loss = Σ −log p / Σ tokens, in nats; perplexity = exp(loss)."""

    def count(self, scored: Scored) -> dict[str, float]:
        return {"nll": scored.nll.double().sum().item(), "tokens": float(scored.tokens.sum().item())}

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        loss = counts["nll"] / counts["tokens"]
        return {"loss": loss, "perplexity": exp(min(loss, 700.0))}
