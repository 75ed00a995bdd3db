"""HetLoRA: clients of different rank, zero-padded and weighted by the size of what they learnt (Cho et al. 2024, arXiv 2401.06432)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, Update
from flexray.server import averaged


@dataclass(frozen=True)
class HetLora(Algorithm):
    """Client k trains and exchanges the first r_k ranks; θ ← Σ w_k θ_k with w_k ∝ ‖B_k A_k‖_F over all layers together.

    The scale is lora.alpha / lora.rank for everybody. The paper's pruning of own ranks is left out. Where no client learnt
    anything, all count alike.
    """

    each: ClassVar[bool] = True
    ranks: tuple[int, ...] = ()
    """Of the clients by their number, over again when there are more of them; []: all lora.rank."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        wrong = [rank for rank in self.ranks if not 1 <= rank <= self.lora.rank]
        mend = "lower them, or raise lora.rank"
        return (f"ranks: expected 1 to lora.rank ({self.lora.rank}), got {wrong[0]}; {mend}",) if wrong else ()

    def cut(self, payload: Payload, client: int) -> Payload:
        rank = self.ranks[client % len(self.ranks)] if self.ranks else self.lora.rank
        cut = {n: (rank, s[1]) if n.endswith("/a") else (s[0], rank) for n, s in payload.weights.items()}
        return Payload(cut, payload.aux)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))

    def combine(self, updates: Sequence[Update], shares: Sequence[float]) -> Update:
        sizes = [self._size(update) for update in updates]
        weights = [size / sum(sizes) for size in sizes] if sum(sizes) > 0 else [1 / len(sizes)] * len(sizes)
        return Update(averaged([u.weights for u in updates], weights))

    @staticmethod
    def _size(update: Update) -> float:
        """‖BA‖_F, as the root of the sum over layers of tr((AAᵀ)(BᵀB)): no product is ever formed."""
        total = 0.0
        for name, a in update.weights.items():
            if name.endswith("/a"):
                b = update.weights[f"{name[:-1]}b"]
                total += float(((a @ a.mT) * (b.mT @ b)).sum())
        return max(total, 0.0) ** 0.5
