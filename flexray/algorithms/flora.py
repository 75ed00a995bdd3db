"""FLoRA: stack the clients' adapters, so that the products are averaged exactly, and fold them in (Wang et al. 2024, arXiv 2409.05976)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, ServerState, State, Update
from flexray.state import Shapes, below, select


@dataclass(frozen=True)
class FLoRA(Algorithm):
    """Down go B = [B_1 … B_C] and A = [p_1 A_1; … p_C A_C] of the last round; a client adds (alpha/rank)·B·A to its folded ΔW
    and starts new adapters (A as at first, B zero).

    Everybody must get every stack, so all clients take part in every round. What is folded is dense, and kept by each client.
    """

    each: ClassVar[bool] = True
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora), Part("folded", "delta", "private", self.lora))

    def check(self, experiment: Any) -> tuple[str, ...]:
        if experiment.system.on and (experiment.system.loses or experiment.system.mode == "async"):
            return (
                "name: expected all clients in every round with flora, got a system in which some may not count; what they miss others "
                "fold in: leave dropout, deadline, availability and profiles out of system",
            )
        everybody = 1.0 if isinstance(experiment.cohort, float) else experiment.clients
        if experiment.cohort in (None, everybody):
            return ()
        return (
            f"name: expected all clients in every round with flora, got `cohort: {experiment.cohort}`; a client that misses a round "
            "misses what the others fold in: leave cohort out",
        )

    def down(self, shapes: Shapes, cohort: int) -> Payload:
        return Payload({}, {f"stack/{n}": _stacked(n, shape, cohort) for n, shape in self.up(shapes).weights.items()})

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        folded = self._fold(sent, mine)
        weights = trainer.fit(trainer.fresh(self.shared) | folded, train=frozenset({"lora"}))
        return Update(select(weights, {"lora"})), ClientState(folded)

    def combine(self, updates: Sequence[Update], shares: Sequence[float]) -> Update:
        stack = {}
        for name, first in updates[0].weights.items():
            is_a, r = name.endswith("/a"), self.lora.rank
            stack[f"stack/{name}"] = first.new_empty(_stacked(name, tuple(first.shape), len(updates)))
            for k, (update, p) in enumerate(zip(updates, shares, strict=True)):
                where = (slice(k * r, k * r + r), slice(None))
                stack[f"stack/{name}"][where if is_a else where[::-1]] = (
                    p * update.weights[name] if is_a else update.weights[name]
                )
        return Update({}, stack)

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        return ServerState(mean)

    def common(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        return self._fold(sent, mine)  # the same at every client

    def personal(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        return trainer.fresh(self.shared) | self._fold(sent, mine)  # new adapters add nothing yet

    def _fold(self, sent: Update, mine: ClientState) -> State:
        """What has been folded in, the last stack included."""
        stack, scale = below("stack", sent.aux), self.lora.alpha / self.lora.rank
        sites = {name: name.split("/")[1] for name in mine.weights}
        return {n: w + scale * stack[f"lora/{sites[n]}/b"] @ stack[f"lora/{sites[n]}/a"] for n, w in mine.weights.items()}


def _stacked(name: str, shape: tuple[int, ...], clients: int) -> tuple[int, ...]:
    """The shape of so many A above, or B beside, each other."""
    return (clients * shape[0], shape[1]) if name.endswith("/a") else (shape[0], clients * shape[1])
