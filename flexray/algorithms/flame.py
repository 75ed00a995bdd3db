"""FLAME: experts' updates count by how often the client used them (Le et al. 2025, arXiv 2506.16600)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, Routed, ServerState, Update
from flexray.state import Shapes, part_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Flame(Algorithm):
    """Adapters on every routed expert; expert e of the mean is Σ_k n_k·(a_ke/S)^t·θ_ke over the sum of these weights.

    a_ke: tokens that the router sent to the expert in the client's S local steps; t is `temperature`. An expert that
    nobody used is unchanged. The attention's adapters are averaged as in FedAvg. That clients of little power run fewer
    experts per token is left out.
    """

    temperature: float = 1.0
    """How much use counts: t in (a/S)^t; 0 counts all who used an expert alike."""
    experts: Routed = Routed()
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora), Part("experts", "routed", "shared", self.experts))

    def check(self, experiment: Any) -> tuple[str, ...]:
        wrong = f"temperature: expected at least 0, got {self.temperature}; 1 is usual, 0 counts all who used an expert alike"
        return () if self.temperature >= 0 else (wrong,)

    def up(self, shapes: Shapes) -> Payload:
        """Every expert's adapters times how often it was used, and these numbers, `counts/<block>` [E]."""
        weights = super().up(shapes).weights
        return Payload(weights, {_counts(n): shape[:1] for n, shape in weights.items() if part_of(n) == "experts"})

    def down(self, shapes: Shapes, cohort: int) -> Payload:
        return super().up(shapes)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        after, counts = trainer.fit(sent.weights), {}
        for block, tokens in trainer.usage().items():
            rate = tokens / trainer.steps[:, None]
            counts[f"counts/{block}"] = rate**self.temperature * (tokens > 0)
        up = {n: t * _beside(counts[_counts(n)], t) if part_of(n) == "experts" else t for n, t in after.items()}
        return Update(up, counts), mine

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        """The mean of the products over the mean of the counts, for each expert; θ where nobody counted."""
        after = dict(mean.weights)
        for name, t in mean.weights.items():
            if part_of(name) == "experts":
                count = _beside(mean.aux[_counts(name)], t)
                used = count > 0
                after[name] = (t / count.where(used, count + 1)).where(used, state.sent.weights[name])
        return ServerState(Update(after))


def _counts(name: str) -> str:
    """The name of the counts that belong to an expert's tensor."""
    return f"counts/{name.split('/')[1]}"


def _beside(counts: Tensor, like: Tensor) -> Tensor:
    """Counts [K, E] or [E] with as many axes as the tensors [K, E, …] or [E, …] that they belong to."""
    return counts.view(*counts.shape, *[1] * (like.dim() - counts.dim()))
