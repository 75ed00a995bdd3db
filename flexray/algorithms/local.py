"""Local: no communication at all; adapters, grafted expert and gate are all private. The floor of every comparison."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, Gate, Graft, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class Local(Algorithm):
    """FLEx without the averaging: the same parameters, each client on its own."""

    lora: Lora = Lora()
    graft: Graft = Graft()
    gate: Gate = Gate()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (
            Part("lora", "lora", "private", self.lora),
            Part("expert", "expert", "private", self.graft),
            Part("gate", "gate", "private", self.gate),
        )

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(mine.weights))
