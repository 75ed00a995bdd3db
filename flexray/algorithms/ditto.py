"""Ditto: a shared model as in FedAvg, and a private copy of it held near (Li et al. 2021, arXiv 2012.04221)."""

from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, State, Update
from flexray.state import renamed, sqdist


@dataclass(frozen=True)
class Ditto(Algorithm):
    """θ by FedAvg; v_k ← v_k − η(∇F_k(v_k) + strength·(v_k − θᵗ)), started at θ⁰ whenever a client joins; clients serve v_k.

    Both take train.steps, on batches of their own. `strength` is λ in the paper (algorithm 1).
    """

    strength: float = 0.1
    """How firmly the private copy is held near the shared model: λ in the paper."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora), Part("own", "lora", "private", self.lora))

    def check(self, experiment: Any) -> tuple[str, ...]:
        wrong = f"strength: expected a number >= 0, got {self.strength}; use 0 for a copy on its own"
        return () if self.strength >= 0 else (wrong,)

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        return ClientState(renamed(trainer.fresh(self.shared), "own"))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        near = renamed(sent.weights, "own")
        theta = trainer.fit(sent.weights)
        own = trainer.fit(mine.weights, penalty=lambda v: self.strength / 2 * sqdist(v, near), stream=1)
        return Update(theta), ClientState(own)

    def personal(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        return mine.weights
