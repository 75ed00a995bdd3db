"""FLEx: shared adapters, and a private expert per MoE layer grafted by the client's data (Liu et al. 2025, arXiv 2506.00965)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flexray.algorithm import Algorithm, ClientState, Gate, Graft, LocalTrainer, Lora, Part, Update
from flexray.server import Aggregate


@dataclass(frozen=True)
class Flex(Algorithm):
    """The MoE stays frozen, adapters are averaged, the grafted expert and its gate never leave their client.

    Defaults that differ from the paper's released code, because they score better (benchmarks/README.md): the expert
    starts at zero output and the gate half open. The paper's start: graft.start copy, gate.init router_row. For the pretrained
    expert adapted where it is, without one more: gate.mode in_place.
    """

    lora: Lora = Lora()
    graft: Graft = Graft()
    gate: Gate = Gate()
    share: Literal["ab", "a"] = "ab"
    """What of the adapters is averaged: both A and B, or A alone."""
    expert: Literal["private", "shared"] = "private"
    """`shared`: the grafted expert is averaged too, and must be cut from the same one everywhere."""
    gate_on: Literal["train", "valid"] = "train"
    """The rows that the gate is trained on; `valid`: after the rest."""
    gate_steps: int = 5
    """Of the gate, each round, with `gate_on: valid` only."""
    aggregate: Aggregate = Aggregate()

    @property
    def each(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.aggregate.each

    @property
    def parts(self) -> tuple[Part, ...]:
        divided = (Part("a", "lora_a", "shared", self.lora), Part("b", "lora_b", "private", self.lora))
        return (
            *(divided if self.share == "a" else (Part("lora", "lora", "shared", self.lora),)),
            Part("expert", "expert", self.expert, self.graft),
            Part("gate", "gate", "private", self.gate),
        )

    def check(self, experiment: Any) -> tuple[str, ...]:
        found = list(self.aggregate.problems(experiment))
        if self.expert == "shared" and self.graft.select not in ("index", "random"):
            found.append(
                f"graft.select: expected index or random with `expert: shared`, got {self.graft.select!r}; an expert that is averaged "
                "must be cut from the same one at every client"
            )
        if self.expert == "shared" and self.gate.mode == "off":
            found.append("expert: expected private with `gate.mode: off`, got 'shared'; nothing is grafted then: drop it")
        if self.gate_on == "valid" and self.gate.mode in ("off", "open", "in_place"):
            found.append(
                f"gate_on: expected train with `gate.mode: {self.gate.mode}`, got 'valid'; that gate has nothing to train"
            )
        if self.gate_steps < 1 or (self.gate_on == "train" and self.gate_steps != Flex.gate_steps):
            found.append(f"gate_steps: expected at least 1, with `gate_on: valid` only, got {self.gate_steps}; drop it")
        return tuple(found)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        weights = sent.weights | mine.weights
        if self.gate_on == "train":
            return self.divide(trainer.fit(weights))
        weights = trainer.fit(weights, train=frozenset(p.name for p in self.parts if p.name != "gate"))
        return self.divide(trainer.fit(weights, train=frozenset({"gate"}), split="valid", steps=self.gate_steps, stream=1))

    def combine(self, updates: Sequence[Update], shares: Sequence[float]) -> Update:
        return self.aggregate.combine(updates)
