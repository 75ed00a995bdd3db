"""CoMiGS: a shared generalist and a private specialist, their router trained on held-out rows (Fan et al. 2024, arXiv 2409.13931)."""

from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Mixer, Part, Update


@dataclass(frozen=True)
class CoMiGS(Algorithm):
    """Two adapters in every adapted layer and a router that weighs them per token; the experts are trained on train rows,
    then the router alone on valid rows (the first-order form of its two-level problem). Both experts and the router are
    dense here: every token uses both.
    """

    router_steps: int = 5
    """Of the router, each round, on valid rows."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (
            Part("generalist", "lora", "shared", self.lora),
            Part("specialist", "lora", "private", self.lora),
            Part("router", "mixer", "private", Mixer(("generalist", "specialist"))),
        )

    def check(self, experiment: Any) -> tuple[str, ...]:
        wrong = f"router_steps: expected at least 1, got {self.router_steps}; 5 is a start"
        return () if self.router_steps >= 1 else (wrong,)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        weights = trainer.fit(sent.weights | mine.weights, train=frozenset({"generalist", "specialist"}))
        return self.divide(trainer.fit(weights, train=frozenset({"router"}), split="valid", steps=self.router_steps, stream=1))
