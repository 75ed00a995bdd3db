"""What can be trained: adapters, grafted experts and their gates. Everything else in the model is frozen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Part:
    """One group of trained parameters: what they are for, and whether they travel. Whatever is in no part is frozen.

    `config` is the options value of that kind (`Lora`, `Graft` or `Gate`).
    """

    name: str
    kind: Literal["lora", "expert", "gate"]
    where: Literal["shared", "private"]
    config: "Lora | Graft | Gate"


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
    the router's softmax; `off` g = 0; `open` g = 1. init: `router_row` (w = the router's row of the selected expert,
    b = 0), `closed` (w = 0, b = −4), `half` (w = 0, b = 0, so g = 0.5).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    mode: Literal["add", "mix", "route", "off", "open"] = "add"
    init: Literal["router_row", "closed", "half"] = "half"


def problems(parts: tuple[Part, ...]) -> Iterator[str]:
    """Settings that make no sense or contradict each other, each `<key below algorithm>: expected …, got …; <mend>`."""
    for config in dict.fromkeys(p.config for p in parts):
        if isinstance(config, Lora):
            yield from _of_lora(config)
        elif isinstance(config, Graft):
            yield from _of_graft(config)
            for gate in (p.config for p in parts if isinstance(p.config, Gate)):
                yield from _of_both(config, gate)
        elif config.mode in ("off", "open") and config.init != Gate.init:
            yield f"gate.init: expected none with `gate.mode: {config.mode}`, got {config.init!r}; drop it, or use another mode"


def _of_lora(lora: Lora) -> Iterator[str]:
    yield from _of_adapter("lora", lora)
    if not 0 <= lora.dropout < 1:
        yield f"lora.dropout: expected at least 0 and less than 1, got {lora.dropout}; use 0 for none"
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        yield f"lora.targets: expected one or more of q, k, v and o, each once, got {list(lora.targets)}; the default is [q, k, v]"


def _of_adapter(key: str, config: Lora | Graft) -> Iterator[str]:
    if config.rank < 1:
        yield f"{key}.rank: expected at least 1, got {config.rank}; 8 is usual"
    if not 0 < config.alpha < float("inf"):
        yield f"{key}.alpha: expected a number above 0, got {config.alpha}; twice the rank is usual"


def _of_graft(graft: Graft) -> Iterator[str]:
    yield from _of_adapter("graft", graft)
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
    if graft.start == "identity" and gate.mode in ("mix", "route"):
        yield (
            f"graft.start: expected copy with `gate.mode: {gate.mode}`, got 'identity'; an expert of zero output "
            "would still take weight from the routed ones: set graft.start to copy, or gate.mode to add"
        )
