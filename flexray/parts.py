"""What can be trained: adapters, grafted experts and their gates. Everything else in the model is frozen."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
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
    """Low-rank adapters ΔW = (alpha/rank)·B·A on attention projections; A random, the same for everybody, B zero.

    `targets` are roles, not names: q, k, v and o, whatever the family calls them.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[Literal["q", "k", "v", "o"], ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Mixer:
    """Shares of adapters, per token and adapted layer: softmax(W·x + b) over those named in `over`, trained; 1/M each at first.

    While the mixer is in use, what each of these adapters adds is multiplied by its share (FedALT, arXiv 2503.11880).
    A divided adapter goes by the name of either of its parts.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    over: tuple[str, ...]


@dataclass(frozen=True)
class Anchors:
    """Shares of two adapters, `over` (global, local), per row, by how similar its prompt is to some of the client's own.

    FedDPA, arXiv 2403.19211; see `models/anchors.py`. While in use, the adapter named by `toward` is multiplied by
    s = sharpness · similarity, between 0 and 1 (`scaled`, as the authors' code with its 0.5), or σ(sharpness · similarity)
    (`sigmoid`), the other by 1 − s. prompts: how many of the client's own are kept. pooling: the prompt's tokens that
    represent it, their `mean` or the `last`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    over: tuple[str, str] = ("global", "local")
    prompts: int = 5
    toward: Literal["local", "global"] = "local"
    sharpness: float = 0.5
    share: Literal["scaled", "sigmoid"] = "scaled"
    pooling: Literal["mean", "last"] = "mean"


@dataclass(frozen=True)
class Routed:
    """Low-rank adapters ΔW = (alpha/rank)·B·A on the projections of every routed expert, in effect where the router picks it."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0


@dataclass(frozen=True)
class Graft:
    """The private expert: which pretrained ones it is cut from, and how it is trained.

    select: `reconstruction` (the expert, or greedily the `experts` of them, that best rebuild the block's output on
    the client's rows), `usage`, `usage_probability`, `random`, or `index` (then `index` names the expert in every block).
    train: `full` copies the selected expert and trains all of it, `lora` trains adapters over the frozen one, no copy.
    start: `copy` serves the selected expert as it is, `identity` starts at zero output (down projection zero, or
    E+LoRA − E), so that round 0 is the frozen model.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    select: Literal["reconstruction", "usage", "usage_probability", "random", "index"] = "reconstruction"
    index: int | None = None
    experts: int = 1
    train: Literal["full", "lora"] = "full"
    start: Literal["copy", "identity"] = "identity"
    calibration_rows: int = 32
    rank: int = 8
    alpha: float = 16.0


@dataclass(frozen=True)
class Gate:
    """How the private expert is blended in: g = σ(w·x + b) per token and grafted expert.

    mode: `add` y = routed + g·private; `mix` (1−g)·routed + g·private; `route` the private expert is one more logit in
    the router's softmax; `in_place` no expert is added: where the router picks the grafted one, its own copy answers;
    `off` g = 0; `open` g = 1. init: `router_row` (w = the router's row of the selected expert,
    b = 0), `closed` (w = 0, b = −4), `half` (w = 0, b = 0, so g = 0.5).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    mode: Literal["add", "mix", "route", "in_place", "off", "open"] = "add"
    init: Literal["router_row", "closed", "half"] = "half"


OPTIONS = {
    "lora": Lora, "lora_a": Lora, "lora_b": Lora, "delta": Lora, "mixer": Mixer, "anchors": Anchors, "routed": Routed,
    "expert": Graft, "gate": Gate,
}  # fmt: skip
"""Kind to the type of its options."""


def adapters(parts: tuple[Part, ...]) -> list[tuple[Part, Part]]:
    """Every low-rank adapter as the part that holds its A and the one that holds its B; the same one if it is not divided."""
    whole, a, b = ([p for p in parts if p.kind == kind] for kind in ("lora", "lora_a", "lora_b"))
    return [*zip(whole, whole, strict=True), *zip(a, b, strict=False)]


def problems(parts: tuple[Part, ...]) -> Iterator[str]:
    """Settings that make no sense or contradict each other, each `<key below algorithm>: expected …, got …; <mend>`."""
    yield from _of_kinds(parts)
    for config in dict.fromkeys(p.config for p in parts):
        yield from _of_config(config)
    for graft, gate in dict.fromkeys(product((p.config for p in parts), repeat=2)):
        if isinstance(graft, Graft) and isinstance(gate, Gate):
            yield from _of_both(graft, gate)
    yield from _of_divided(parts)
    yield from _of_shares(parts)


def _of_kinds(parts: tuple[Part, ...]) -> Iterator[str]:
    names = [p.name for p in parts]
    for name in dict.fromkeys(n for n in names if names.count(n) > 1 or "/" in n or not n):
        yield f"parts: expected names, each once and without a slash, got {name!r}; give every part a name of its own"
    for p in parts:
        wanted, got = OPTIONS[p.kind].__name__, type(p.config).__name__
        if got != wanted:
            yield f"parts.{p.name}: expected {wanted} options for the kind {p.kind}, got {got}; change one of them"


def _of_config(config: Lora | Mixer | Anchors | Routed | Graft | Gate) -> Iterator[str]:
    if isinstance(config, Lora):
        yield from _of_lora(config)
    elif isinstance(config, Routed):
        yield from _of_low_rank("routed", config)
    elif isinstance(config, Graft):
        yield from _of_graft(config)
    elif isinstance(config, Anchors) and config.prompts < 1:
        yield f"anchors.prompts: expected at least 1, got {config.prompts}; 5 is usual"
    elif isinstance(config, Anchors) and not 0 < config.sharpness < float("inf"):
        yield f"anchors.sharpness: expected a number above 0, got {config.sharpness}; set anchors.toward for the other sign"
    elif isinstance(config, Gate) and config.mode in ("in_place", "off", "open") and config.init != Gate.init:
        yield f"gate.init: expected none with `gate.mode: {config.mode}`, got {config.init!r}; drop it, or use another mode"


def _of_lora(lora: Lora) -> Iterator[str]:
    yield from _of_low_rank("lora", lora)
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        yield f"lora.targets: expected one or more of q, k, v and o, each once, got {list(lora.targets)}; the default is [q, k, v]"


def _of_divided(parts: tuple[Part, ...]) -> Iterator[str]:
    a, b = ([p.name for p in parts if p.kind == kind] for kind in ("lora_a", "lora_b"))
    if len(a) != len(b):
        yield f"parts: expected a lora_b part for every lora_a part, got {a} and {b}; the i-th goes with the i-th"
    for one, two in adapters(parts):
        if one.config != two.config:
            yield f"parts.{two.name}: expected the options of its other half {one.name}, got {two.config}; use the same for both"


def _of_shares(parts: tuple[Part, ...]) -> Iterator[str]:
    """Of what mixers and anchors weigh: adapters, each in one of them, all of a mixer's on the same layers."""
    known = {part.name: sides for sides in adapters(parts) for part in sides}
    taken: set[str] = set()
    for part in parts:
        if not isinstance(part.config, Mixer | Anchors):
            continue
        key, over = f"parts.{part.name}.over", list(part.config.over)
        sides = [known[name] for name in over if name in known]
        if len(set(sides)) < max(2, len(over)):
            yield f"{key}: expected two or more adapters, each once, got {over}; name parts of the kind lora, lora_a or lora_b"
        layers = {frozenset(a.config.targets) for a, _ in sides if isinstance(a.config, Lora)}
        if part.kind == "mixer" and len(layers) > 1:
            yield f"{key}: expected adapters on the same layers, got {over}; give them the same lora.targets"
        if both := taken & {a.name for a, _ in sides}:
            yield f"{key}: expected adapters that nothing else weighs, got {sorted(both)}; leave them to one mixer or anchors"
        taken |= {a.name for a, _ in sides}


def _of_low_rank(key: str, config: Lora | Routed | Graft) -> Iterator[str]:
    if config.rank < 1:
        yield f"{key}.rank: expected at least 1, got {config.rank}; 8 is usual"
    if not 0 < config.alpha < float("inf"):
        yield f"{key}.alpha: expected a number above 0, got {config.alpha}; twice the rank is usual"
    if not isinstance(config, Graft) and not 0 <= config.dropout < 1:
        yield f"{key}.dropout: expected at least 0 and less than 1, got {config.dropout}; use 0 for none"


def _of_graft(graft: Graft) -> Iterator[str]:
    yield from _of_low_rank("graft", graft)
    if graft.train == "full":
        for key in ("rank", "alpha"):
            if (value := getattr(graft, key)) != getattr(Graft, key):
                yield f"graft.{key}: expected none with `graft.train: full`, got {value}; drop it, or set graft.train to lora"
    if graft.experts < 1:
        yield f"graft.experts: expected at least 1, got {graft.experts}; use `gate.mode: off` for no grafted expert"
    if graft.calibration_rows < 1:
        yield f"graft.calibration_rows: expected at least 1, got {graft.calibration_rows}; 32 is usual"
    if graft.select in ("random", "index") and graft.calibration_rows != Graft.calibration_rows:
        got = graft.calibration_rows
        yield f"graft.calibration_rows: expected none with `graft.select: {graft.select}`, got {got}; drop it, for no row is looked at"
    yield from _of_index(graft)


def _of_index(graft: Graft) -> Iterator[str]:
    if graft.select == "index" and graft.index is None:
        yield "graft.index: expected an expert's number with `graft.select: index`, got none; set graft.index"
    if graft.select != "index" and graft.index is not None:
        yield f"graft.index: expected none with `graft.select: {graft.select}`, got {graft.index}; set graft.select to index"
    if graft.index is not None and graft.index < 0:
        yield f"graft.index: expected an expert's number, got {graft.index}; the first expert is 0"
    if graft.select == "index" and graft.experts > 1:
        yield f"graft.experts: expected 1 with `graft.select: index`, got {graft.experts}; choose another selection"


def _of_both(graft: Graft, gate: Gate) -> Iterator[str]:
    reasons = {
        "mix": "an expert of zero output would still take weight from the routed ones",
        "route": "an expert of zero output would still take weight from the routed ones",
        "in_place": "the copy stands in for the expert, and is the same at first",
    }
    if graft.start == "identity" and gate.mode in reasons:
        why, mend = reasons[gate.mode], "set graft.start to copy, or gate.mode to add"
        yield f"graft.start: expected copy with `gate.mode: {gate.mode}`, got 'identity'; {why}: {mend}"
