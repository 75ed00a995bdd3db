"""FedSA-LoRA: A and B are trained, A is averaged, B stays (Guo et al. 2024, arXiv 2410.01463)."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class FedSaLora(Algorithm):
    """A learns what is common, B what is the client's own."""

    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("a", "lora_a", "shared", self.lora), Part("b", "lora_b", "private", self.lora))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights | mine.weights))
