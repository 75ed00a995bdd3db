"""What can be trained: adapters, grafted experts and their gates. Everything else in the model is frozen."""

from dataclasses import dataclass
from typing import ClassVar, Literal

Kind = Literal["lora", "lora_a", "lora_b", "delta", "mixer", "anchors", "routed", "expert", "gate"]


@dataclass(frozen=True)
class Part:
    """One group of parameters: what they are for, and whether they travel. Whatever is in no part is frozen.

    kind, with its options: `lora` (Lora) adapters on attention projections; `lora_a` and `lora_b` (Lora) the same divided
    into two parts, the i-th with the i-th, in effect when both are in use; `delta` (Lora, of which only `targets` counts) a
    dense ΔW there; `mixer` (Mixer) and `anchors` (Anchors) weigh adapters against each other, per token and per row;
    `routed` (Routed) adapters on every routed expert; `expert` (Graft) and `gate` (Gate) a grafted expert and its gate.
    where: `shared` travels and is averaged, `private` never leaves its client, `frozen` keeps its starting values: it is
    not sent, not trained unless named, and always in force.
    """

    name: str
    kind: Kind
    where: Literal["shared", "private", "frozen"]
    config: "Lora | Mixer | Anchors | Routed | Graft | Gate"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters ΔW = (alpha/rank)·B·A on attention projections; A random, the same for everybody, B zero."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rank: int = 8
    """Of B and A."""
    alpha: float = 16.0
    """The product is multiplied by alpha/rank; twice the rank is usual."""
    dropout: float = 0.0
    """Of what goes into A, while training."""
    targets: tuple[Literal["q", "k", "v", "o"], ...] = ("q", "k", "v")
    """Which projections, as roles: whatever the family calls them."""


@dataclass(frozen=True)
class Mixer:
    """Shares of adapters, per token and adapted layer: softmax(W·x + b) over those named in `over`, trained; 1/M each at first.

    While the mixer is in use, what each of these adapters adds is multiplied by its share (FedALT, arXiv 2503.11880).
    A divided adapter goes by the name of either of its parts.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    over: tuple[str, ...]
    """The adapters that it weighs."""


@dataclass(frozen=True)
class Anchors:
    """Shares of two adapters, (global, local), per row, by how similar its prompt is to some of the client's own.

    FedDPA, arXiv 2403.19211; see `models/anchors.py`. While in use, the adapter named by `toward` is multiplied by
    s = sharpness · similarity, between 0 and 1, or σ(sharpness · similarity), the other by 1 − s.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    over: tuple[str, str] = ("global", "local")
    """The two adapters, the global one first."""
    prompts: int = 5
    """How many of the client's own prompts are kept to compare with."""
    toward: Literal["local", "global"] = "local"
    """Which adapter counts more where a row is like the client's own prompts."""
    sharpness: float = 0.5
    """What likeness is multiplied by."""
    share: Literal["scaled", "sigmoid"] = "scaled"
    """How likeness becomes a share: `scaled`, the product as it is, between 0 and 1, as the authors' code with its 0.5; `sigmoid`,
    σ of it."""
    pooling: Literal["mean", "last"] = "mean"
    """Which of a prompt's tokens represent it: their `mean` or the `last`."""


@dataclass(frozen=True)
class Routed:
    """Low-rank adapters ΔW = (alpha/rank)·B·A on the projections of every routed expert, in effect where the router picks it."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rank: int = 8
    """Of B and A."""
    alpha: float = 16.0
    """The product is multiplied by alpha/rank; twice the rank is usual."""
    dropout: float = 0.0
    """Of what goes into A, while training."""


@dataclass(frozen=True)
class Graft:
    """The private expert: which pretrained ones it is cut from, and how it is trained."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    select: Literal["reconstruction", "usage", "usage_probability", "random", "index"] = "reconstruction"
    """By what the pretrained expert is chosen: how well it rebuilds the block's output on the client's rows, how much it is
    used there (by count, or by the router's probability), at random, or by `index`."""
    index: int | None = None
    """The expert's number in every block, with `select: index` only."""
    experts: int = 1
    """How many are grafted per block; with `reconstruction` chosen greedily."""
    train: Literal["full", "lora"] = "full"
    """`full` copies the expert and trains all of it; `lora` trains adapters over the frozen one, no copy."""
    start: Literal["copy", "identity"] = "identity"
    """`copy` serves the chosen expert as it is; `identity` starts at zero output, so that round 0 is the frozen model."""
    calibration_rows: int = 32
    """The client's rows that the choice looks at."""
    rank: int = 8
    """Of the adapters, with `train: lora` only."""
    alpha: float = 16.0
    """The adapters' scale is alpha/rank, with `train: lora` only."""


@dataclass(frozen=True)
class Gate:
    """How the private expert is blended in: g = σ(w·x + b) per token and grafted expert.

    init: `router_row` (w = the router's row of the selected expert, b = 0), `closed` (w = 0, b = −4), `half` (w = 0, b = 0).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    mode: Literal["add", "mix", "route", "in_place", "off", "open"] = "add"
    """How the private expert comes in: `add` y = routed + g·private; `mix` (1−g)·routed + g·private; `route` one more logit in
    the router's softmax; `in_place` its copy answers where the router picks the grafted one; `off` g = 0; `open` g = 1."""
    init: Literal["router_row", "closed", "half"] = "half"
    """`half` g = 0.5; `closed` g near 0; `router_row` from the router's row of the chosen expert."""


OPTIONS = {
    "lora": Lora, "lora_a": Lora, "lora_b": Lora, "delta": Lora, "mixer": Mixer, "anchors": Anchors, "routed": Routed,
    "expert": Graft, "gate": Gate,
}  # fmt: skip
"""Kind to the type of its options."""


def adapters(parts: tuple[Part, ...]) -> list[tuple[Part, Part]]:
    """Every low-rank adapter as the part that holds its A and the one that holds its B; the same one if it is not divided."""
    whole, a, b = ([p for p in parts if p.kind == kind] for kind in ("lora", "lora_a", "lora_b"))
    return [*zip(whole, whole, strict=True), *zip(a, b, strict=False)]
