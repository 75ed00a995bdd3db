"""SCAFFOLD: control variates take the drift out of clients' steps (Karimireddy et al. 2020, arXiv 1910.06378)."""

from dataclasses import dataclass
from typing import Any, Literal

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, Payload, ServerState, State, Update
from flexray.server import filled
from flexray.state import Shapes, add, below, dot, under


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Each local gradient g is replaced by g − c_k + c; clients send y and c_k⁺ − c_k (algorithm 1).

    The server: θ ← mean of y; c ← c + (cohort/population)·mean of c_k⁺ − c_k. Means are weighted by rows, as the objective is
    (the paper counts every client once); c is the mean of all c_k exactly if all take part, or rows are equal.
    variate: how c_k⁺ is made. `gradient` (option I): the gradient at θᵗ over as many batches as a round has steps, another
    pass over data. `steps` (option II): c_k − c + (θᵗ − y)/(S·η), which is the mean of the local gradients with plain SGD
    only, so other optimizers are refused (where train.clip bites, it is the mean of what the steps took instead). With
    AdamW, `gradient` corrects what the optimizer sees; the theory is for SGD.
    """

    variate: Literal["gradient", "steps"] = "gradient"
    """How a client's control variate is made: by the `gradient` at θᵗ over another pass (option I), or from the `steps` taken
    (option II, plain SGD only)."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        train, found = experiment.train, []
        if self.variate == "steps" and train.optimizer != "sgd":
            found.append(
                f"variate: expected gradient with `train.optimizer: {train.optimizer}`, got 'steps'; its formula takes the change of "
                "the weights for a sum of gradients, which holds for SGD only: set variate to gradient, or train.optimizer to sgd"
            )
        if self.variate == "steps" and train.warmup_steps:
            found.append(
                f"variate: expected gradient with `train.warmup_steps: {train.warmup_steps}`, got 'steps'; its formula takes all steps "
                "for equally long: set variate to gradient, or drop train.warmup_steps"
            )
        return tuple(found)

    def up(self, shapes: Shapes) -> Payload:
        weights = super().up(shapes).weights
        return Payload(weights, {f"c/{name}": shape for name, shape in weights.items()})

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        return ClientState(memory=filled(sent.weights, 0.0))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        theta, c, own = sent.weights, below("c", sent.aux), mine.memory
        y = trainer.fit(theta, penalty=lambda w: dot(w, add(c, own, -1.0)))
        new = trainer.gradient(theta, stream=1) if self.variate == "gradient" else self._by_steps(trainer, sent, own, y)
        return Update(y, under("c", add(new, own, -1.0))), ClientState(memory=new)

    def _by_steps(self, trainer: LocalTrainer, sent: Update, own: State, y: State) -> State:
        """c_k − c + (θᵗ − y)/(S·η), seat by seat."""
        c, taken = below("c", sent.aux), trainer.steps * trainer.lr
        return {
            name: t - c[name] + (sent.weights[name] - y[name]) / taken.view(-1, *[1] * (t.dim() - 1)) for name, t in own.items()
        }

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        return ServerState(Update(mean.weights, add(state.sent.aux, mean.aux, share)))
