"""FedDPA: a global and a local adapter, mixed per instance by its likeness to the client's own (Yang et al. 2024, arXiv 2403.19211)."""

from dataclasses import dataclass
from typing import Any, Literal

from flexray.algorithm import Algorithm, Anchors, ClientState, LocalTrainer, Lora, Part, Update
from flexray.state import select


@dataclass(frozen=True)
class FedDpa(Algorithm):
    """The global adapter is trained alone and averaged; the local one, never sent, is trained beside the global one as it
    came, weighed as it will be served (the authors' code weighs both by a half meanwhile). Both take train.steps.

    `prompts` of the client's own are kept as what the frozen model makes of them; a row is compared with them, and its
    likeness weighs the adapter that `toward` names. Open in the paper, and switches here: that direction, and how
    likeness becomes a share (`sharpness`, `share` and `pooling`: see `parts.Anchors`).
    """

    prompts: int = 5
    toward: Literal["local", "global"] = "local"
    sharpness: float = 0.5
    share: Literal["scaled", "sigmoid"] = "scaled"
    pooling: Literal["mean", "last"] = "mean"
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        anchors = Anchors(("global", "local"), self.prompts, self.toward, self.sharpness, self.share, self.pooling)
        return (
            Part("global", "lora", "shared", self.lora),
            Part("local", "lora", "private", self.lora),
            Part("anchors", "anchors", "private", anchors),
        )

    def check(self, experiment: Any) -> tuple[str, ...]:
        found = []
        if self.prompts < 1:
            found.append(f"prompts: expected at least 1, got {self.prompts}; 5 is usual")
        if not self.sharpness > 0:
            found.append(f"sharpness: expected a number above 0, got {self.sharpness}; set toward for the other sign")
        return tuple(found)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        theta = trainer.fit(sent.weights)
        local = trainer.fit(sent.weights | mine.weights, train=frozenset({"local"}), stream=1)
        return Update(theta), ClientState(select(local, {"local", "anchors"}))
