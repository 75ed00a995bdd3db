"""Loss and perplexity of the response, per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, ClassVar

from flexray.metric import Metric, Number, Scored

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Loss(Metric):
    """loss = Σ −log p / Σ tokens, in nats; perplexity = exp(loss)."""

    numbers: ClassVar = {
        "loss": Number("loss", less=True),
        "perplexity": Number("perplexity", less=True, decimals=2, shown=False),
    }

    def count(self, scored: Scored) -> dict[str, Tensor]:
        return {"nll": scored.nll, "tokens": scored.tokens}

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        loss = counts["nll"] / counts["tokens"]
        return {"loss": loss, "perplexity": exp(min(loss, 700.0))}
