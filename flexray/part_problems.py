"""Whether parts and their options make sense, by themselves and together."""

from collections.abc import Iterator
from itertools import product

from flexray.parts import OPTIONS, Anchors, Gate, Graft, Lora, Mixer, Part, Routed, adapters


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
