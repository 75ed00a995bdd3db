"""FedMoE: clients hold some of the experts; an expert is averaged over those who hold it (Mei et al. 2024, arXiv 2408.11304)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, Routed, ServerState, Update
from flexray.server import averaged
from flexray.state import Shapes, part_of, select

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FedMoe(Algorithm):
    """In every block a client trains and sends adapters of the `held` experts that its rows use most; others stay as they came.

    An expert that one client holds is copied, one that several hold is averaged with weights p_k, one that none holds is
    unchanged. The attention's adapters are averaged as in FedAvg. All experts' adapters come down, as a token may be
    routed to any: every client has all pretrained experts; sub-models of only some of them are left out.
    """

    each: ClassVar[bool] = True
    held: int = 2
    """Experts of each block that a client trains and sends: those that its rows use most."""
    experts: Routed = Routed()
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora), Part("experts", "routed", "shared", self.experts))

    def check(self, experiment: Any) -> tuple[str, ...]:
        if self.held >= 1:
            return ()
        return (f"held: expected at least 1 expert that a client trains, got {self.held}; without any, use fedavg",)

    def up(self, shapes: Shapes) -> Payload:
        """Of every block H experts' tensors, [H, …], and which they are, `held/<block>` [H]; H is `held`, or all there are."""
        weights, held = super().up(shapes).weights, {}
        for name, shape in weights.items():
            if part_of(name) == "experts":
                weights[name] = (min(self.held, shape[0]), *shape[1:])
                held[_which(name)] = weights[name][:1]
        return Payload(weights, held)

    def down(self, shapes: Shapes, cohort: int) -> Payload:
        return super().up(shapes)

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        """Which experts the client holds: those that most of its tokens go to, [K, H]."""
        order = {block: share.argsort(dim=-1, descending=True, stable=True) for block, share in trainer.profile().items()}
        return ClientState(memory={f"held/{block}": experts[:, : self.held] for block, experts in order.items()})

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        at = {n: _index(mine.memory[_which(n)], t) for n, t in sent.weights.items() if part_of(n) == "experts"}
        mask = {
            n: t.new_zeros(t.shape).scatter(1, at[n], 1.0) if n in at else t.new_ones(t.shape) for n, t in sent.weights.items()
        }
        after = trainer.fit(sent.weights, mask=mask)
        return Update({n: t.gather(1, at[n]) if n in at else t for n, t in after.items()}, mine.memory), mine

    def combine(self, updates: Sequence[Update], shares: Sequence[float]) -> Update:
        """The attention's adapters averaged; the held experts of all clients in one row, and beside them whose p_k, for `server`."""
        from torch import cat

        experts = [n for n in updates[0].weights if part_of(n) == "experts"]
        weights = averaged([select(u.weights, {"lora"}) for u in updates], shares)
        weights |= {n: cat([u.weights[n] for u in updates]) for n in experts}
        held = {n: cat([u.aux[n] for u in updates]) for n in updates[0].aux}
        p = {f"p/{n}": cat([u.aux[n].double() * 0 + p for p, u in zip(shares, updates, strict=True)]) for n in held}
        return Update(weights, held | p)

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        after = {
            n: _averaged(t, mean.weights[n], mean.aux[_which(n)].long(), mean.aux[f"p/{_which(n)}"].to(t.dtype))
            if part_of(n) == "experts"
            else mean.weights[n]
            for n, t in state.sent.weights.items()
        }
        return ServerState(Update(after))


def _which(name: str) -> str:
    """The name of what says which experts a tensor's rows are."""
    return f"held/{name.split('/')[1]}"


def _index(held: Tensor, like: Tensor) -> Tensor:
    """[K, H] as an index [K, H, …] into a tensor [K, E, …]."""
    return held.view(*held.shape, *[1] * (like.dim() - 2)).expand(*held.shape, *like.shape[2:])


def _averaged(theta: Tensor, rows: Tensor, held: Tensor, p: Tensor) -> Tensor:
    """θ [E, …] with every expert that is among the rows replaced by their mean with weights p; `held` says which each row is."""
    total = theta.new_zeros(len(theta)).index_add(0, held, p)
    parts = rows * (p / total[held]).view(-1, *[1] * (rows.dim() - 1))
    mean = theta.new_zeros(theta.shape).index_add(0, held, parts)
    return mean.where((total > 0).view(-1, *[1] * (theta.dim() - 1)), theta)
