"""The contract of a federated method.

A method answers what travels, what a newcomer owns, what a client does, what the server does with the mean, and what
a client serves with. It is one frozen value whose fields are its hyperparameters, in one file of `algorithms/`.
Everything else (sampling, placement, Ray, averaging, bytes, files, evaluation) is the same for all and lives in `sim/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from flexray.folder import Entry
from flexray.parts import Anchors, Gate, Graft, Lora, Mixer, Part, Routed
from flexray.state import ClientState, ServerState, Shapes, State, Update, part_of, select

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Algorithm", "Anchors", "ClientState", "Gate", "Graft", "LocalTrainer", "Lora", "Mixer", "Part", "Payload", "Routed",
    "ServerState", "State", "Update",
]  # fmt: skip

Penalty = Callable[[State], "Tensor"]
"""From the weights being trained (seat axis K first) to a term [K] of each seat's loss."""

Split = Literal["train", "valid"]


class LocalTrainer(Protocol):
    """What a client may use. It trains the K clients of its seats at once; every tensor has the seat axis first.

    Parts of `where: frozen` are in force by themselves and need not be among the weights.
    """

    lr: Tensor
    """[K] learning rate of this round's shared parts."""
    steps: Tensor
    """[K] local steps of this round."""
    rows: Tensor
    """[K] training rows n_k of each client."""
    share: Tensor
    """[K] p_k = n_k / Σn over this round's cohort: the client's weight in the mean."""
    client: Tensor
    """[K] the clients' numbers in the run, int64."""
    round: int

    def fit(
        self,
        weights: State,
        *,
        train: frozenset[str] | None = None,
        penalty: Penalty | None = None,
        steps: int | None = None,
        split: Split = "train",
        stream: int = 0,
        same_batch: bool = False,
        mask: State | None = None,
    ) -> State:
        """Local steps from `weights`; gives all of them back, the trained ones changed.

        `train` names the parts to train (default: all), `steps` overrides the round's number, `stream` picks an
        independent sequence of batches, `split` the rows they are drawn from; `same_batch` takes every step on the first. Numbers
        of the trained tensors stand still where `mask` (of their shapes) is 0.
        """
        ...

    def gradient(self, weights: State, *, split: Split = "train", stream: int = 0) -> State:
        """The loss's gradient at fixed weights, averaged over as many batches as a round has steps."""
        ...

    def loss(self, weights: State, *, split: Split = "valid") -> Tensor:
        """[K] mean loss per response token over all rows of a split; nothing is trained."""
        ...

    def fresh(self, parts: tuple[Part, ...]) -> State:
        """Starting values of these parts: adapters from the run's seed, experts and gates grafted by the client's data."""
        ...

    def profile(self) -> State:
        """Block to [K, E]: the share of tokens that the frozen router sends to each expert on the client's calibration rows."""
        ...

    def usage(self) -> State:
        """Block to [K, E]: tokens that each expert got in all `fit`s of this turn so far."""
        ...


@dataclass(frozen=True)
class Payload:
    """What crosses between a client and the server, one way: names and shapes, for one client."""

    weights: Shapes
    aux: Shapes = field(default_factory=dict)


@dataclass(frozen=True)
class Algorithm(Entry, ABC):
    """A federated method. Subclass it in one file, as a frozen dataclass; all answers but `parts` and `client` have defaults."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    each: ClassVar[bool] = False
    """True where the server needs the single updates: `combine` then makes of them what `server` gets as the mean."""
    surveys: ClassVar[bool] = False
    """True where every client tells something before round 0 (`survey`), from which `clusters` are made."""
    pooled: ClassVar[bool] = False
    """True where all clients' rows lie in one place, and one trainee stands for the cohort."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """What is trained, and where it lives."""

    @abstractmethod
    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        """One client's round: from what came and what it owns, to what goes up and what stays."""

    def check(self, experiment: Any) -> tuple[str, ...]:
        """Settings that make no sense, as problems `<key below algorithm>: expected …, got …; <mend>`.

        `experiment` has the other settings (`experiment.train.optimizer`, `experiment.cohort`, …).
        """
        return ()

    def up(self, shapes: Shapes) -> Payload:
        """All that a client may send; `shapes` are those of every tensor of the parts."""
        return Payload(select(shapes, {p.name for p in self.shared}))

    def down(self, shapes: Shapes, cohort: int) -> Payload:
        """All that the server sends, to a cohort of so many clients."""
        return self.up(shapes)

    def cut(self, payload: Payload, client: int) -> Payload:
        """What of a payload crosses for this client: the leading corner of each tensor, the rest being zero (lower ranks)."""
        return payload

    def survey(self, trainer: LocalTrainer) -> State:
        """What every client tells once before round 0, [K, …]; counted in bytes; only called where `surveys`."""
        raise NotImplementedError

    def clusters(self, surveys: State) -> tuple[int, ...]:
        """The cluster of each client, from the surveys of all, [clients, …]; each cluster has a server state of its own."""
        return ()

    def open(self, first: Update) -> ServerState:
        """The server's state before round 0; `first` has the shared parts' starting values, and zeros for `aux`."""
        return ServerState(sent=first)

    def start(self, trainer: LocalTrainer, sent: Update) -> ClientState:
        """What a newcomer owns."""
        return ClientState(trainer.fresh(self.private))

    def combine(self, updates: Sequence[Update], shares: Sequence[float]) -> Update:
        """Single updates, in client order with their p_k, to what `server` gets as the mean; only called where `each`."""
        raise NotImplementedError

    def server(self, state: ServerState, mean: Update, share: float) -> ServerState:
        """What the server does with the mean of the updates, weighted by training rows.

        `share` is the part of the population (of the cluster) that took part. Default: the mean is the new shared state
        (FedAvg).
        """
        return ServerState(sent=mean, kept=state.kept)

    def common(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> State:
        """What could be served without anything private."""
        return sent.weights

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
