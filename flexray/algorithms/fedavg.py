"""FedAvg: average what clients trained (McMahan et al. 2017, arXiv 1602.05629; with LoRA also FedIT, 2305.05644)."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """θ ← Σ p_k θ_k over the adapters; nothing is private."""

    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))
