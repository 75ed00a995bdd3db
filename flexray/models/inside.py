"""What happens inside the blocks: who gets the tokens, how sure and how changed the routing is, what the private experts weigh.

All numbers are sums over real tokens [K, …], which add up over batches and clients; `summarise` makes means of them.

load: the share of tokens that the router sends to each expert (over the experts it sums to k, where each token has k).
entropy: of the router's scores over all experts, as a distribution, in nats: softmax(logits), or where the router takes
sigmoids those sigmoids divided by their sum. drift: KL(frozen ‖ current) of these distributions, in nats, the same rows in
both models. gate: the gate's value g = σ(w·x + b), or its share of the router's softmax in the mode `route`; 1 where it is
open; none in place. share: ‖private‖ / (‖private‖ + ‖routed‖), the norms being those of what either adds to the block's
output for the token, gates and router weights included: private = Σ_g own_g·E_g, routed = kept·Σ w_i·E_i over the pretrained
experts that were picked, without a shared expert (see `gates.Weights`). In place, private = Σ w·E' over the experts replaced,
and routed the others that were picked.

Shape suffixes: K seats, E experts, G grafted experts, N rows (K·B), T tokens, M flat tokens (N·T), k experts per token, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexray.models.gates import weigh
from flexray.models.graft import pairs
from flexray.models.grafted import grafted
from flexray.models.in_place import stand_ins
from flexray.models.usage import Usage, chosen, outermost, real_tokens
from flexray.parts import Gate, Graft, Part
from flexray.state import State, below, part_of

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block
    from flexray.models.seats import Seats

Batch = tuple[Tensor, Tensor]
"""Rows ordered by seat, right-padded: ids [N, T], lengths [N]."""


@dataclass(frozen=True)
class Inside:
    """One client's means at one block; see the head of this file. The last three are by expert part."""

    block: str
    layer: int
    load: list[float]
    entropy: float
    drift: float
    gate: dict[str, float]
    """Without those in place."""
    gate_sd: dict[str, float]
    """Standard deviation over tokens and grafted experts."""
    share: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a block's router and its pretrained experts did with the flat tokens, padding included."""

    logits_ME: Tensor
    routed: tuple[Tensor, Tensor, Tensor]
    """What the experts were given: tokens [M, D], indices [M, k], weights [M, k]."""
    out_MD: Tensor


@torch.no_grad()
def look(seats: Seats, weights: State, batch: Batch, starts_N: Tensor | None = None) -> State:
    """Sums over the batch's tokens, `<block>/<what>` to [K, …] in float64 on the CPU; `weights` [K, …] are those in force.

    The rows go through the frozen model, and through the model with all parts that `weights` has. `starts`: as for `Seats.using`.
    """
    ids_NT, lengths_N = batch
    frozen: State = {}
    sums: State = {}

    def before(block: Block, seen: _Seen) -> None:
        frozen[block.name] = _log_scores(block, seen.logits_ME)

    def now(block: Block, seen: _Seen) -> None:
        real_M = real_tokens(lengths_N, ids_NT.numel())
        found = _routing(block, seen, frozen.pop(block.name), real_M, seats.seats)
        for name, per_token in _private(block, seen, seats.parts, held, seats.seats).items():
            found[name] = _per_seat(per_token, real_M, seats.seats)
        sums.update({f"{block.name}/{name}": t.double().cpu() for name, t in found.items()})

    parts = {part_of(name) for name in weights}
    seats.put(weights)
    held = seats.take(parts)
    body: Any = seats.backbone.model.base_model
    with seats.using(()), _watching(seats.backbone, before):
        body(input_ids=ids_NT, use_cache=False)
    with seats.using(parts, starts=starts_N), _watching(seats.backbone, now):
        body(input_ids=ids_NT, use_cache=False)
    return sums


def summarise(backbone: Backbone, sums: State) -> list[list[Inside]]:
    """For each seat, its means at every block; a seat without any token has none."""
    seats = len(sums[f"{backbone.blocks[0].name}/tokens"])
    of = [(block, below(block.name, sums)) for block in backbone.blocks]
    return [[_means(b, {n: t[k] for n, t in own.items()}) for b, own in of if own["tokens"][k] > 0] for k in range(seats)]


def expert_shares(backbone: Backbone, batches: Iterable[tuple[Tensor, Tensor]]) -> State:
    """Block to [E], the load of one client's rows; batches are (ids, mask), right-padded. Nothing trained may be in force."""
    usage, tokens, body = Usage(backbone, 1), 0, backbone.model.base_model
    for ids_NT, mask_NT in batches:
        tokens += int(mask_NT.sum())
        with torch.no_grad(), usage.counting(mask_NT.long().sum(1)):
            body(input_ids=ids_NT, use_cache=False)  # pyright: ignore[reportCallIssue]
    return {name: t[0] / max(tokens, 1) for name, t in usage.counts().items()}


def grafted_where(state: State) -> dict[str, list[int]]:
    """Block to the pretrained experts that one client's experts were cut from, in their order; of a state without seat axis."""
    found: dict[str, list[int]] = {}
    for name, t in state.items():
        if name.endswith("/index"):
            found.setdefault(name.split("/", 1)[1].removesuffix("/index"), []).extend(t.tolist())
    return found


def _routing(block: Block, seen: _Seen, frozen_ME: Tensor, real_M: Tensor, seats: int) -> State:
    now_ME = _log_scores(block, seen.logits_ME)
    return {
        "tokens": _per_seat(torch.ones_like(real_M, dtype=torch.float64), real_M, seats),
        "load": chosen(seen.routed[1], real_M, seats, block.n_experts),
        "entropy": _per_seat(torch.special.entr(now_ME.exp()).sum(1), real_M, seats),
        "drift": _per_seat((frozen_ME.exp() * (frozen_ME - now_ME)).sum(1), real_M, seats),
    }


def _private(block: Block, seen: _Seen, parts: tuple[Part, ...], weights: State, seats: int) -> State:
    """`<what>/<part>` to values per token [M], of every expert part in force."""
    found: State = {}
    for expert, gate in pairs(parts):
        own, own_gate = (below(f"{p.name}/{block.name}", weights) if p else State() for p in (expert, gate))
        if not own or (gate is not None and _has_tensors(gate) and not own_gate):
            continue
        assert isinstance(expert.config, Graft)
        mode = gate.config.mode if gate and isinstance(gate.config, Gate) else "open"
        assert mode != "off"
        if mode == "in_place":
            private_MD, routed_MD = _replaced(block, seen, own, expert.config, seats)
        else:
            x_KMD = seen.routed[0].unflatten(0, (seats, -1))
            logits = _over(block, seen).unflatten(0, (seats, -1)) if mode == "route" else None
            blend = weigh(mode, block, own_gate, x_KMD, expert.config.experts, logits)
            private_MD = torch.einsum("kmg,kgmd->kmd", blend.own_KNG, grafted(block, own, x_KMD, expert.config)).flatten(0, 1)
            kept = 1 if blend.kept_KN1 is None else blend.kept_KN1.flatten(0, 1)
            routed_MD, gate_MG = kept * seen.out_MD, blend.gate_KNG.flatten(0, 1).double()
            found |= {f"gate/{expert.name}": gate_MG.mean(1), f"gate_square/{expert.name}": gate_MG.square().mean(1)}
        ours, theirs = private_MD.double().norm(dim=1), routed_MD.double().norm(dim=1)
        found[f"share/{expert.name}"] = ours / (ours + theirs).clamp(min=torch.finfo(torch.float64).tiny)
    return found


def _replaced(block: Block, seen: _Seen, own: State, graft: Graft, seats: int) -> tuple[Tensor, Tensor]:
    """In place: what the own experts give, and what the others that were picked give, [M, D]."""
    private_MD, routed_MD = torch.zeros_like(seen.out_MD), seen.out_MD
    for stood in stand_ins(block, own, graft, seats, seen.routed, bare=True):
        came_nD, left_nD = (t.to(routed_MD.dtype) for t in (stood.left_nD + stood.change_nD, stood.left_nD))
        private_MD = private_MD.index_add(0, stood.row_n, came_nD)
        routed_MD = routed_MD.index_add(0, stood.row_n, -left_nD)
    return private_MD, routed_MD


def _over(block: Block, seen: _Seen) -> Tensor:
    """The logits over which the router's softmax runs."""
    return seen.logits_ME if block.scores == "softmax_all" else seen.logits_ME.gather(1, seen.routed[1])


def _has_tensors(gate: Part) -> bool:
    return isinstance(gate.config, Gate) and gate.config.mode in ("add", "mix", "route")


def _log_scores(block: Block, logits_ME: Tensor) -> Tensor:
    """log of the router's scores over all experts, made a distribution."""
    logits_ME = logits_ME.double()
    return (torch.nn.functional.logsigmoid(logits_ME) if block.scores == "sigmoid" else logits_ME).log_softmax(1)


def _per_seat(per_token_M: Tensor, real_M: Tensor, seats: int) -> Tensor:
    """[K] sums over each seat's real tokens."""
    return torch.where(real_M, per_token_M, 0).unflatten(0, (seats, -1)).sum(1, dtype=torch.float64)


def _means(block: Block, own: State) -> Inside:
    tokens = own["tokens"]

    def by_part(what: str) -> dict[str, float]:
        return {name: float(t / tokens) for name, t in below(what, own).items()}

    gate, square = by_part("gate"), by_part("gate_square")
    spread = {name: math.sqrt(max(0.0, square[name] - mean**2)) for name, mean in gate.items()}
    load, entropy, drift = (own[what] / tokens for what in ("load", "entropy", "drift"))
    return Inside(block.name, block.layer, load.tolist(), float(entropy), float(drift), gate, spread, by_part("share"))


@contextmanager
def _watching(backbone: Backbone, see: Callable[[Block, _Seen], None]) -> Iterator[None]:
    """Shows each block to `see` as the pretrained experts have done, before private ones are blended in."""
    logits: State = {}

    def at_router(name: str, _: Any, args: Any, out: Any) -> None:
        logits[name] = out[0]

    def at_experts(block: Block, _: Any, args: Any, out: Tensor) -> None:
        if counts():
            see(block, _Seen(logits.pop(block.name), args, out))

    with outermost(backbone) as counts:
        hooks = [b.router.register_forward_hook(partial(at_router, b.name)) for b in backbone.blocks]
        hooks += [b.experts.register_forward_hook(partial(at_experts, b), prepend=True) for b in backbone.blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
