"""FedDPA: a global and a local adapter, mixed per instance by its likeness to the client's own (Yang et al. 2024, arXiv 2403.19211)."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, Anchors, ClientState, LocalTrainer, Lora, Part, Update
from flexray.state import select


@dataclass(frozen=True)
class FedDpa(Algorithm):
    """The global adapter is trained alone and averaged; the local one, never sent, is trained beside the global one as it
    came, weighed as it will be served (the authors' code weighs both by a half meanwhile). Both take train.steps.

    Some of the client's own prompts are kept as what the frozen model makes of them; a row is compared with them, and its
    likeness weighs the adapter that `anchors.toward` names. Open in the paper, and switches here: that direction, and how
    likeness becomes a share (see `parts.Anchors`).
    """

    anchors: Anchors = Anchors()
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (
            Part("global", "lora", "shared", self.lora),
            Part("local", "lora", "private", self.lora),
            Part("anchors", "anchors", "private", self.anchors),
        )

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        theta = trainer.fit(sent.weights)
        local = trainer.fit(sent.weights | mine.weights, train=frozenset({"local"}), stream=1)
        return Update(theta), ClientState(select(local, {"local", "anchors"}))
