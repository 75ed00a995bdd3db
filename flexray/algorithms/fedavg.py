"""FedAvg: average what clients trained (McMahan et al. 2017, arXiv 1602.05629; with LoRA also FedIT, 2305.05644)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, State, Update
from flexray.server import Aggregate

TUNING = 1
"""The stream of batches that tuning draws from."""


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """θ ← Σ p_k θ_k over the adapters; nothing is private."""

    lora: Lora = Lora()
    tuning: int = 0
    """A client serves what it gets after so many steps on its own rows, which are not sent; 0: none."""
    aggregate: Aggregate = Aggregate()

    @property
    def each(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.aggregate.each

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        found = list(self.aggregate.problems(experiment))
        if self.tuning < 0:
            found.append(f"tuning: expected at least 0 steps, got {self.tuning}; use 0 for none")
        if self.tuning and experiment.evaluation.when == "after_steps":
            found.append(
                f"tuning: expected 0 with `evaluation.when: after_steps`, got {self.tuning}; what is scored then has trained for "
                "train.steps already: drop one of the two"
            )
        return tuple(found)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))

    def combine(self, updates: Sequence[Update], shares: Sequence[float]) -> Update:
        return self.aggregate.combine(updates)

    def personal(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        return trainer.fit(sent.weights, steps=self.tuning, stream=TUNING) if self.tuning else sent.weights
