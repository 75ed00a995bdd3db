"""Central: all clients' rows in one place, as many steps and rows as the federation takes. The ceiling of sharing."""

from dataclasses import dataclass
from typing import ClassVar

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Update


@dataclass(frozen=True)
class Central(Algorithm):
    """One trainee with everybody's rows: as many steps a round as a client, each over a batch for every client of a cohort.

    So it sees as many tokens as the federation does. Rows are drawn from all of them alike.
    """

    pooled: ClassVar[bool] = True
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))
