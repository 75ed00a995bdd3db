"""FLAME: experts' updates count by how often the client used them (Le et al. 2025, arXiv 2506.16600)."""

from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, Routed, ServerState, Update
from flexray.server import by_expert, experts_of, weighted
from flexray.state import Shapes


@dataclass(frozen=True)
class Flame(Algorithm):
    """Adapters on every routed expert; expert e of the mean is Σ_k n_k·(a_ke/S)^t·θ_ke over the sum of these weights.

    a_ke: tokens that the router sent to the expert in the client's S local steps; t is `temperature`. An expert that
    nobody used is unchanged. The attention's adapters are averaged as in FedAvg. That clients of little power run fewer
    experts per token is left out.
    """

    temperature: float = 1.0
    experts: Routed = Routed()
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora), Part("experts", "routed", "shared", self.experts))

    def check(self, experiment: Any) -> tuple[str, ...]:
        wrong = f"temperature: expected at least 0, got {self.temperature}; 1 is usual, 0 counts all who used an expert alike"
        return () if self.temperature >= 0 else (wrong,)

    def up(self, shapes: Shapes) -> Payload:
        return Payload(
            super().up(shapes).weights, {f"counts/{block}": (n,) for block, n in experts_of(shapes, "experts").items()}
        )

    def down(self, shapes: Shapes, cohort: int) -> Payload:
        return super().up(shapes)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        after, counts = trainer.fit(sent.weights), {}
        for block, tokens in trainer.usage().items():
            rate = tokens / trainer.steps[:, None]
            counts[f"counts/{block}"] = rate**self.temperature * (tokens > 0)
        return Update(weighted(after, counts, "experts"), counts), mine

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        return ServerState(Update(by_expert(state.sent.weights, mean, "experts")))
