"""A method that trains nothing: what comes goes back up, so that what is left is everything around training."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class Noop(Algorithm):
    """A client owns `owned` numbers, which grow by 1 every round if it `changes` them; client k adds k · `step` to what it sends."""

    lora: Lora = Lora(rank=1)
    owned: int = 0
    changes: bool = False
    step: float = 0.0

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        nothing = trainer.share.new_zeros(len(trainer.rows), self.owned, dtype=next(iter(sent.weights.values())).dtype)
        return ClientState(memory={"noop/own": nothing} if self.owned else {})

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        up, kept = sent.weights, mine.memory
        if self.step:
            up = {n: t + (self.step * trainer.client).view(-1, *[1] * (t.dim() - 1)).to(t) for n, t in up.items()}
        if self.changes:
            kept = {n: t + 1 for n, t in kept.items()}
        return Update(up), ClientState(memory=kept)
