"""FedALT: a client's own adapter beside the frozen mean of the others', mixed per token (Bian et al. 2025, arXiv 2503.11880)."""

from dataclasses import dataclass
from typing import Any

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Mixer, Part, State, Update
from flexray.state import renamed, select


@dataclass(frozen=True)
class FedAlt(Algorithm):
    """The own adapter is trained, sent, and never overwritten; `rest` is Σ_{j≠k} p_j θ_j / (1 − p_k), fixed while training.

    The server sends the mean of all; a client takes out its own share, which it remembers, if it was in the last round's
    cohort. A trained mixer in every adapted layer weighs the two, token by token. The paper averages the others alike;
    here they count by their rows, as in FedAvg.
    """

    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (
            Part("own", "lora", "private", self.lora),
            Part("rest", "lora", "shared", self.lora),
            Part("mixer", "mixer", "private", Mixer(("own", "rest"))),
        )

    def check(self, experiment: Any) -> tuple[str, ...]:
        if experiment.system.mode == "async":
            mend = "the mean would no longer hold a client's own share: drop it"
            return (f"name: expected `system.mode: sync` with fedalt, got 'async'; {mend}",)
        if experiment.privacy.dp.where == "none" and experiment.compress.kind == "none":
            return ()
        return (
            "name: expected another method with privacy.dp or compress, got 'fedalt'; a client takes its own share out of the mean, which "
            "it can only while its update is in it as it was: use fed_dpa, which has a local adapter too",
        )

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        never = {"round": trainer.lr * 0 - 2, "share": trainer.lr * 0}
        return ClientState(trainer.fresh(self.private), never)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        weights = trainer.fit(self._with_others(trainer, sent, mine), train=frozenset({"own", "mixer"}))
        up = renamed(select(weights, {"own"}), "rest")
        now = {"round": trainer.lr * 0 + trainer.round, "share": trainer.share}
        return Update(up), ClientState(select(weights, {"own", "mixer"}), now)

    def personal(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        return self._with_others(trainer, sent, mine)

    def _with_others(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        """All weights, `rest` without the client's own contribution; alone in its cohort a client keeps the mean as it is."""
        took_part = (mine.memory["round"] == trainer.round - 1) & (mine.memory["share"] < 1)
        share = mine.memory["share"] * took_part
        own, rest = renamed(select(mine.weights, {"own"}), "rest"), {}
        for name, mean in sent.weights.items():
            p = share.view(-1, *[1] * (mean.dim() - 1))
            rest[name] = (mean - p * own[name]) / (1 - p)
        return rest | mine.weights
