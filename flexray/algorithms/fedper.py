"""FedPer: a shared body and a private head, trained together (Arivazhagan et al. 2019, arXiv 1912.00818)."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, Gate, Graft, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class FedPer(Algorithm):
    """The private head is here the grafted expert with its gate, so that with one choice of them it is FLEx, to the bit."""

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

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights | mine.weights))
