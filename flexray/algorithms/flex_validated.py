"""FLEx on top of FedAvg: private experts that each client serves with as far as its valid rows bear them out (flexray's own)."""

from dataclasses import dataclass
from typing import Any, Literal

from flexray.algorithm import Algorithm, ClientState, Gate, Graft, LocalTrainer, Lora, Part, State, Update
from flexray.state import select
from flexray.strength import validated

PRIVATE = frozenset({"expert", "gate"})


@dataclass(frozen=True)
class FlexValidated(Algorithm):
    """FLEx's parts, trained apart: the adapters as in FedAvg, to the bit, so that no private expert bends what is shared; the
    grafted expert and its gate beside the adapters as they came. Both take train.steps.

    keep `best`: of all rounds so far a client serves the private parts with the lowest valid loss (`last`: the last ones).
    Then it scales private and shared parts to what its valid rows like best, from nothing to all (see `strength`): with few
    rows it falls back on FedAvg, and on the frozen base. Costs a pass over the valid rows per round, and as many as ten to be served;
    scored on these very rows (`evaluation.split: valid`) it looks better than it is.
    """

    keep: Literal["best", "last"] = "best"
    """Which private parts a client serves: of all rounds so far those with the lowest valid loss, or the last ones."""
    lora: Lora = Lora()
    graft: Graft = Graft()
    gate: Gate = Gate()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (
            Part("lora", "lora", "shared", self.lora),
            Part("expert", "expert", "private", self.graft),
            Part("gate", "gate", "private", self.gate),
        )

    def check(self, experiment: Any) -> tuple[str, ...]:
        if self.graft.start == "identity":
            return ()
        return (
            f"graft.start: expected identity with flex_validated, got {self.graft.start!r}; a copy has no strength at which it is "
            "the frozen model",
        )

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        own = trainer.fresh(self.private)
        return ClientState(own, {} if self.keep == "last" else {**own, "lowest": trainer.lr * 0 + float("inf")})

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        theta = trainer.fit(sent.weights)
        own = select(trainer.fit(sent.weights | mine.weights, train=PRIVATE, stream=1), PRIVATE)
        return Update(theta), ClientState(own, self._kept(trainer, sent, own, mine.memory))

    def personal(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        own = select(mine.memory, PRIVATE) or mine.weights
        return validated(trainer, sent.weights | own, PRIVATE)

    def _kept(self, trainer: LocalTrainer, sent: Update, own: State, kept: State) -> State:
        """The private parts with the lowest valid loss so far, and that loss."""
        if self.keep == "last":
            return {}
        loss = trainer.loss(sent.weights | own)
        better = loss < kept["lowest"]
        best = {n: t.where(better.view(-1, *[1] * (t.dim() - 1)), kept[n]) for n, t in own.items()}
        return {**best, "lowest": loss.where(better, kept["lowest"])}
