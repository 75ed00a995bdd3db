"""pFedMe: clients solve a problem regularised to their copy of the shared model (Dinh et al. 2020, arXiv 2006.08848)."""

from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, ServerState, State, Update
from flexray.state import add, renamed, scaled, sqdist


@dataclass(frozen=True)
class PFedMe(Algorithm):
    """Each local round: θ̂ ≈ argmin F(θ) + (strength/2)·‖θ − w_k‖² by `inner` steps on one batch, then w_k ← w_k − η·strength·(w_k − θ̂).

    A client takes train.steps steps in all, so train.steps/inner local rounds, and serves its last θ̂ (algorithm 1; `strength`
    is λ, `lr` its η, and train.lr, or train.private_lr, the inner rate). The server: w ← (1 − mix)·w + mix·Σ p_k w_k (`mix`
    is β). w_k and θ̂ start each round at wᵗ. The inner steps are the optimizer's: with AdamW (afresh each time) as with SGD.
    """

    strength: float = 15.0
    """How firmly θ̂ is held near w_k: λ in the paper."""
    lr: float = 0.01
    """Of w_k's step towards θ̂: η in the paper."""
    inner: int = 5
    """Steps on one batch for each θ̂; a divisor of train.steps."""
    mix: float = 1.0
    """How much of the mean the server takes over: β in the paper."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora), Part("own", "lora", "private", self.lora))

    def check(self, experiment: Any) -> tuple[str, ...]:
        found = [
            f"{name}: expected a number above 0, got {value}; the default is {getattr(PFedMe, name)}"
            for name in ("strength", "lr", "inner", "mix")
            if not (value := getattr(self, name)) > 0
        ]
        if experiment.train.steps is None:
            found.append("inner: expected train.steps, which it divides, got train.epochs; set train.steps")
        elif self.inner > 0 and experiment.train.steps % self.inner:
            found.append(
                f"inner: expected a divisor of train.steps ({experiment.train.steps}), got {self.inner}; change one of the two"
            )
        if self.lr * self.strength > 1:
            found.append(f"lr: expected at most 1/strength = {1 / self.strength:g}, got {self.lr}; above it w_k oversteps θ̂")
        return tuple(found)

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        return ClientState(renamed(sent.weights, "own"))

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        w = own = renamed(sent.weights, "own")
        for i in range(int(trainer.steps.max()) // self.inner):
            near = w
            own = trainer.fit(
                own,
                penalty=lambda v, near=near: self.strength / 2 * sqdist(v, near),
                steps=self.inner,
                stream=i,
                same_batch=True,
            )
            w = add(w, add(w, own, -1.0), -self.lr * self.strength)
        return Update(renamed(w, "lora")), ClientState(own)

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        return ServerState(Update(add(scaled(state.sent.weights, 1 - self.mix), mean.weights, self.mix)))

    def personal(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        return mine.weights
