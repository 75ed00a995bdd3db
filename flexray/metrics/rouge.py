"""ROUGE-1, 2 and L: words in common between what the model answers by greedy decoding and the reference (Lin 2004)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from flexray.metric import Metric, Number, Scored

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Rouge(Metric):
    """The mean over rows of the F measure with Porter stemming, in [0, 1], as the rouge-score library has it.

    ROUGE-L takes the whole text as one sequence. The library knows the letters a to z and digits only: words of other
    scripts do not count.
    """

    needs_generation: ClassVar[bool] = True
    numbers: ClassVar = {
        "rougeL": Number("ROUGE-L %", scale=100, decimals=1),
        "rouge1": Number("ROUGE-1 %", scale=100, decimals=1, shown=False),
        "rouge2": Number("ROUGE-2 %", scale=100, decimals=1, shown=False),
    }

    def count(self, scored: Scored) -> dict[str, Tensor]:
        found = [_score(text, reference) for text, reference in zip(scored.texts, scored.references, strict=True)]
        keys = (*KINDS, "generated")
        return {key: scored.nll.new_tensor([row[i] for row in found]).double() for i, key in enumerate(keys)}

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {kind: counts[kind] / counts["generated"] for kind in ("rougeL", "rouge1", "rouge2")}


def _score(text: str | None, reference: str) -> tuple[float, ...]:
    """A row's F measures, and 1 for having been generated."""
    if text is None:
        return (0.0, 0.0, 0.0, 0.0)
    found = _scorer().score(reference, text)
    return (*(found[kind].fmeasure for kind in KINDS), 1.0)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk along, which nothing else needs

    return RougeScorer(list(KINDS), use_stemmer=True)
