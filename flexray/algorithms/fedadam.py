"""FedAdam: the server steps by Adam on what clients changed (Reddi et al. 2021, arXiv 2003.00295)."""

from dataclasses import dataclass
from typing import Any

from flexray import server
from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, ServerState, Update


@dataclass(frozen=True)
class FedAdam(Algorithm):
    """m ← beta1·m + (1−beta1)·Δ; v ← beta2·v + (1−beta2)·Δ², from tau²; θ ← θ + lr·m/(√v + tau), without bias correction."""

    lr: float = 1e-3
    """The server's rate."""
    beta1: float = 0.9
    """Of the first moment."""
    beta2: float = 0.99
    """Of the second."""
    tau: float = 1e-3
    """Keeps the divisor from zero; v starts at its square."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        return server.adaptive_problems(self.lr, self.tau, {"beta1": self.beta1, "beta2": self.beta2})

    def open(self, first: Update) -> ServerState:
        return server.opened(first, self.tau)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        return server.adaptive(
            state, mean, lambda v, d: self.beta2 * v + (1 - self.beta2) * d.square(), self.lr, self.beta1, self.tau
        )
