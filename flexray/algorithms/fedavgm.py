"""FedAvgM: the server keeps a momentum of what clients changed (Hsu et al. 2019, arXiv 1909.06335)."""

from dataclasses import dataclass
from typing import Any

from flexray import server
from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, ServerState, Update
from flexray.state import add, scaled


@dataclass(frozen=True)
class FedAvgM(Algorithm):
    """v ← beta·v + Δ; θ ← θ + lr·v."""

    lr: float = 1.0
    """The server's rate."""
    beta: float = 0.9
    """Of the server's momentum."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        return server.momentum_problems(self.lr, "beta", self.beta)

    def open(self, first: Update) -> ServerState:
        return ServerState(first, server.filled(first.weights, 0.0))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        v = add(server.direction(state, mean), state.kept, self.beta)
        return server.step(state, mean, v, scaled(v, self.lr))
