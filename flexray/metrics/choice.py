"""Multiple choice: the share of the probe's questions whose right choice is the most likely one (what is forgotten)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flexray.metric import Answered, Metric, Number

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Choice(Metric):
    """probe_accuracy ranks choices by −log p per byte of their text, so that long ones are not at a disadvantage whatever
    the tokenizer; probe_accuracy_sum by the plain sum. Of equals the first choice is taken.
    """

    needs_probe: ClassVar[bool] = True
    numbers: ClassVar = {
        "probe_accuracy": Number("probe accuracy %", scale=100, decimals=1),
        "probe_accuracy_sum": Number("probe accuracy % (sums)", scale=100, decimals=1, shown=False),
    }

    def count(self, scored: Answered) -> dict[str, Tensor]:
        by_byte, by_sum = (scored.nll / scored.lengths).argmin(1), scored.nll.argmin(1)
        return {
            "right": by_byte == scored.answers,
            "right_by_sum": by_sum == scored.answers,
            "questions": scored.answers.new_ones(len(scored.answers)),
        }

    def value(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {
            "probe_accuracy": counts["right"] / counts["questions"],
            "probe_accuracy_sum": counts["right_by_sum"] / counts["questions"],
        }
