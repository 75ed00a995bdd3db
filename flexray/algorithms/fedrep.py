"""FedRep: the private head is trained first, then the shared body (Collins et al. 2021, arXiv 2102.07078)."""

from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, Gate, Graft, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class FedRep(Algorithm):
    """The private head is here the grafted expert with its gate.

    A client takes train.steps steps in all: the first `head` share of them on the head with the body fixed, the rest on the
    body with the new head fixed.
    """

    head: float = 0.5
    """The share of a round's steps that go to the private head, which is trained first."""
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
        steps, found = experiment.train.steps, []
        if steps is None:
            return ("head: expected train.steps, which it divides, got train.epochs; set train.steps",)
        if not 0 < round(self.head * steps) < steps:
            found.append(
                f"head: expected a share that leaves steps (of {steps}) for both, got {self.head}; 0.5 is usual, or raise train.steps"
            )
        if self.gate.mode == "off":
            found.append(
                "gate.mode: expected a mode in which the head is in use, got 'off'; nothing could be trained first: use fedavg"
            )
        return tuple(found)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        steps = int(trainer.steps.max())
        first = round(self.head * steps)
        after = trainer.fit(sent.weights | mine.weights, train=frozenset({"expert", "gate"}), steps=first)
        return self.divide(trainer.fit(after, train=frozenset({"lora"}), steps=steps - first, stream=1))
