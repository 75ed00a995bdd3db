"""FLEx: shared adapters, and a private expert per MoE layer grafted by the client's data (Liu et al. 2025, arXiv 2506.00965)."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, Gate, Graft, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class Flex(Algorithm):
    """The MoE stays frozen, adapters are averaged, the grafted expert and its gate never leave their client.

    Defaults that differ from the paper's released code, because they score better (METHODS in the docs): the expert
    starts at zero output and the gate half open. The paper's start: graft.start copy, gate.init router_row.
    """

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

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        return ClientState(trainer.fresh(self.private))  # once: the expert is selected, copied, and given a gate

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights | mine.weights))
