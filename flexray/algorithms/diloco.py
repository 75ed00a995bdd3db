"""DiLoCo: many local steps, and Nesterov momentum on the server (Douillard et al. 2023, arXiv 2311.08105)."""

from dataclasses import dataclass
from typing import Any

from flexray import server
from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, ServerState, Update
from flexray.state import add, scaled


@dataclass(frozen=True)
class DiLoCo(Algorithm):
    """g = −Δ; m ← momentum·m + g; θ ← θ − lr·(g + momentum·m). Its paper takes hundreds of local steps: raise train.steps."""

    lr: float = 0.7
    """The server's rate."""
    momentum: float = 0.9
    """Of the server's Nesterov steps."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        return server.momentum_problems(self.lr, "momentum", self.momentum)

    def open(self, first: Update) -> ServerState:
        return ServerState(first, server.filled(first.weights, 0.0))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        g = scaled(server.direction(state, mean), -1.0)
        m = add(g, state.kept, self.momentum)
        return server.step(state, mean, m, scaled(add(g, m, self.momentum), -self.lr))
