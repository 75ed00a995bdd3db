"""FFA-LoRA: A stays at its common random start, only B is trained and averaged (Sun et al. 2024, arXiv 2403.12313)."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class FfaLora(Algorithm):
    """With A the same everywhere, the mean of the B is the exact mean of the products, for about half the bytes."""

    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("a", "lora_a", "frozen", self.lora), Part("b", "lora_b", "shared", self.lora))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))
