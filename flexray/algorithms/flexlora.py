"""FlexLoRA: average the products, and cut the mean back to the rank by an SVD (Bai et al. 2024, arXiv 2402.11505)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, ServerState, Update

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FlexLora(Algorithm):
    """W = Σ p_k B_k A_k = U·S·Vᵀ, then B = U·S and A = Vᵀ of the first lora.rank of them; a client gets the first r_k.

    The scale lora.alpha / lora.rank is the same for everybody, so it stays outside of the product. While no client has learnt
    anything in a layer, its A stays as it is.
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
        from torch import cat

        after = {}
        for name in (n for n in updates[0].weights if n.endswith("/a")):
            other = f"{name[:-1]}b"
            b = cat([p * u.weights[other] for p, u in zip(shares, updates, strict=True)], 1)
            after[other], after[name] = _truncated(b, cat([u.weights[name] for u in updates]), self.lora.rank)
        return Update(after)

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        now = state.sent.weights
        learnt = {name[:-1] for name, t in mean.weights.items() if name.endswith("/b") and t.any()}
        return ServerState(Update({name: t if name[:-1] in learnt else now[name] for name, t in mean.weights.items()}))


def _truncated(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of B·A [Y, X] by this rank, as U·S [Y, rank] and Vᵀ [rank, X]; the product is never formed."""
    from torch.linalg import qr, svd

    (left, inner_b), (right, inner_a) = qr(b.double()), qr(a.double().mT)
    u, s, vt = svd(inner_b @ inner_a.mT, full_matrices=False)
    after_b, after_a = b.new_zeros(len(b), rank), a.new_zeros(rank, a.shape[1])  # a layer may be narrower than the rank
    after_b[:, : len(s)] = (left @ u * s)[:, :rank]
    after_a[: len(s)] = (vt @ right.mT)[:rank]
    return after_b, after_a
