"""The contract of a federated method.

A method answers what travels, what a newcomer owns, what a client does, what the server does with the mean, and what
a client serves with. It is one frozen value whose fields are its hyperparameters, in one file of `algorithms/`.
Everything else (sampling, placement, Ray, averaging, bytes, files, evaluation) is the same for all and lives in `sim/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from flexray.folder import Entry
from flexray.parts import Gate, Graft, Lora, Part
from flexray.state import ClientState, ServerState, State, Update, part_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Algorithm", "ClientState", "Gate", "Graft", "LocalTrainer", "Lora", "Part", "ServerState", "State", "Update"]

Penalty = Callable[[State], "Tensor"]
"""From the weights being trained (seat axis K first) to a term [K] of each seat's loss."""


class LocalTrainer(Protocol):
    """What a client may use. It trains the K clients of its seats at once; every tensor has the seat axis first."""

    lr: Tensor
    """[K] learning rate of this round."""
    steps: Tensor
    """[K] local steps of this round."""
    rows: Tensor
    """[K] training rows of each client."""

    def fit(
        self,
        weights: State,
        *,
        train: frozenset[str] | None = None,
        penalty: Penalty | None = None,
        steps: int | None = None,
        split: Literal["train", "valid"] = "train",
        stream: int = 0,
    ) -> State:
        """Local steps from `weights`; gives all of them back, the trained ones changed.

        `train` names the parts to train (default: all), `steps` overrides the round's number, `stream` picks an
        independent sequence of batches, `split` the rows they are drawn from.
        """
        ...

    def fresh(self, parts: tuple[Part, ...]) -> State:
        """Starting values of these parts: adapters from the run's seed, experts and gates grafted by the client's data."""
        ...


@dataclass(frozen=True)
class Algorithm(Entry, ABC):
    """A federated method. Subclass it in one file, as a frozen dataclass; all answers but `parts` and `client` have defaults."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """What is trained, and where it lives."""

    @abstractmethod
    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        """One client's round: from what came and what it owns, to what goes up and what stays."""

    def check(self) -> tuple[str, ...]:
        """Combinations of settings that make no sense, as problems `<key below algorithm>: expected …, got …; <mend>`."""
        return ()

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        """What a newcomer owns."""
        return ClientState(trainer.fresh(self.private))

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        """What the server does with the mean of the updates, weighted by training rows.

        `share` is the part of the population that took part. Default: the mean is the new shared state (FedAvg).
        """
        return ServerState(sent=mean, kept=state.kept)

    def personal(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        """What a client serves with."""
        return sent.weights | mine.weights

    @property
    def shared(self) -> tuple[Part, ...]:
        """The parts that travel."""
        return tuple(p for p in self.parts if p.where == "shared")

    @property
    def private(self) -> tuple[Part, ...]:
        """The parts that never leave their client."""
        return tuple(p for p in self.parts if p.where == "private")

    def divide(self, weights: State) -> tuple[Update, ClientState]:
        """Trained weights, divided into what goes up and what stays, by the `where` of their part."""
        travels = {p.name for p in self.shared}
        up = {name: t for name, t in weights.items() if part_of(name) in travels}
        return Update(up), ClientState({name: t for name, t in weights.items() if name not in up})
