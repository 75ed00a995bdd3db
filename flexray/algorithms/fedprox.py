"""FedProx: FedAvg whose clients are held near the shared state (Li et al. 2020, arXiv 1812.06127, eq. 2)."""

from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Update
from flexray.state import sqdist


@dataclass(frozen=True)
class FedProx(Algorithm):
    """Local loss + (mu/2)·‖θ − θᵗ‖²."""

    mu: float = 0.01
    """How firmly clients are held near the shared state; 0: FedAvg."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        return () if self.mu >= 0 else (f"mu: expected a number >= 0, got {self.mu}; use 0 for plain fedavg",)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights, penalty=lambda w: self.mu / 2 * sqdist(w, sent.weights)))
