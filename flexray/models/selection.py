"""Which pretrained experts a client's rows ask for.

By reconstruction as in expert pruning (Lu et al. 2024, arXiv 2402.14800), or by usage. Shape suffixes: B rows, T tokens,
N flat tokens (padding left out), k experts per token, S chosen experts, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flexray.errors import expected
from flexray.models.adapters import seeded
from flexray.models.grafted import expert
from flexray.parts import Graft

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block

Batch = tuple[Tensor, Tensor]
"""Input ids [B, T], right-padded, and their mask [B, T]."""
Choice = dict[str, list[int]]
"""Block name to its chosen experts, in the order in which they were chosen."""


@dataclass(frozen=True)
class _Seen:
    """What went through a block: the real tokens of one batch."""

    row_N: Tensor
    rows: int
    x_ND: Tensor
    routed_ND: Tensor
    logits_NE: Tensor
    weights_Nk: Tensor
    indices_Nk: Tensor


def choose(backbone: Backbone, batches: Iterable[Batch], graft: Graft, seed: int) -> Choice:
    """The experts that one client grafts, for every block; ties go to the lowest number.

    Works on the frozen model (nothing of `Seats` in use), one forward over the rows; by reconstruction, one per chosen expert.
    """
    if graft.select == "index":
        assert graft.index is not None
        return {block.name: [graft.index] for block in backbone.blocks}
    if graft.select == "random":
        return {b.name: _shuffled(b, seed)[: graft.experts] for b in backbone.blocks}
    held = list(batches)
    if not any(mask.any() for _, mask in held):
        raise expected(
            "algorithm.graft.calibration_rows", "at least 1 row of the client", 0, "raise it or give the client rows"
        )
    if graft.select == "reconstruction":
        return _by_reconstruction(backbone, held, graft.experts)
    return _by_usage(backbone, held, graft.experts, weighted=graft.select == "usage_probability")


def _shuffled(block: Block, seed: int) -> list[int]:
    return torch.randperm(block.n_experts, generator=seeded(seed, block.name)).tolist()


def _by_usage(backbone: Backbone, batches: list[Batch], count: int, weighted: bool) -> Choice:
    """Those most often among a token's chosen ones, or those with the largest sum of router weights."""
    use = {b.name: torch.zeros(b.n_experts, dtype=torch.float64, device=backbone.device) for b in backbone.blocks}

    def see(block: Block, seen: _Seen) -> None:
        real = seen.indices_Nk < block.n_experts  # some routers point past the last expert, for none
        values = seen.weights_Nk if weighted else torch.ones_like(seen.weights_Nk)
        use[block.name].index_add_(0, seen.indices_Nk[real], values[real].double())

    _watch(backbone, batches, see)
    return {name: lowest((-u).tolist(), count) for name, u in use.items()}


def _by_reconstruction(backbone: Backbone, batches: list[Batch], count: int) -> Choice:
    """Greedily, the expert whose addition leaves the smallest error."""
    chosen: Choice = {block.name: [] for block in backbone.blocks}
    for _ in range(count):
        for name, errors in reconstruction_errors(backbone, batches, chosen).items():
            chosen[name] += lowest(errors, 1)
    return chosen


def lowest(values: list[float], count: int) -> list[int]:
    """The positions of the smallest values; of equal ones, the first."""
    return sorted(range(len(values)), key=lambda i: values[i])[:count]


def reconstruction_errors(backbone: Backbone, batches: list[Batch], chosen: Choice) -> dict[str, list[float]]:
    """Σ_b ‖F(X_b) − F^S(X_b)‖_F over rows b, for S = the chosen experts and each candidate; infinite for one chosen already.

    F is the routed output as the model computes it, with the family's scale factor. F^S weighs its experts by the router's
    scores restricted to S, normalised to 1 and *not* scaled: S = {i} is then the bare expert i, which is also what a gate
    adds to the block.
    """
    errors = {b.name: torch.zeros(b.n_experts, dtype=torch.float64, device=backbone.device) for b in backbone.blocks}

    def see(block: Block, seen: _Seen) -> None:
        errors[block.name] += _errors(block, seen, chosen[block.name])

    _watch(backbone, batches, see)
    return {name: e.tolist() for name, e in errors.items()}


def _errors(block: Block, seen: _Seen, taken: list[int]) -> Tensor:
    """One batch's part of the errors, [E]."""
    log_NE = _log_scores(block, seen.logits_NE) if taken else None
    base_ND = torch.zeros_like(_wide(seen.routed_ND))
    if log_NE is not None:
        shares_NS = log_NE[:, taken].softmax(-1)
        for s, i in enumerate(taken):
            base_ND += shares_NS[:, s, None] * _wide(expert(block, i, seen.x_ND))
    errors_E = base_ND.new_full((block.n_experts,), float("inf"), dtype=torch.float64)
    for i in sorted(set(range(block.n_experts)) - set(taken)):
        change_ND = _wide(expert(block, i, seen.x_ND)) - base_ND
        if log_NE is not None:
            change_ND *= torch.sigmoid(log_NE[:, i] - log_NE[:, taken].logsumexp(-1))[:, None]
        squares_N = (seen.routed_ND - base_ND - change_ND).square().sum(-1, dtype=torch.float64)
        errors_E[i] = squares_N.new_zeros(seen.rows).index_add_(0, seen.row_N, squares_N).sqrt().sum()
    return errors_E


def _log_scores(block: Block, logits_NE: Tensor) -> Tensor:
    """Whose softmax over any subset is the family's own scores restricted to it and normalised."""
    logits_NE = _wide(logits_NE)
    return F.logsigmoid(logits_NE) if block.scores == "sigmoid" else logits_NE


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


@torch.no_grad()
def _watch(backbone: Backbone, batches: list[Batch], see: Callable[[Block, _Seen], None]) -> None:
    """Run the frozen model over the rows, showing every block's real tokens to `see` as they pass."""
    body = backbone.model.base_model  # without the head: its logits are not needed
    for ids_BT, mask_BT in batches:
        ids_BT, mask_BT = ids_BT.to(backbone.device), mask_BT.to(backbone.device)
        with _listening(backbone, mask_BT.bool(), see):
            body(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)  # pyright: ignore[reportCallIssue]


@contextmanager
def _listening(backbone: Backbone, mask_BT: Tensor, see: Callable[[Block, _Seen], None]) -> Iterator[None]:
    row_N, real_N = mask_BT.nonzero()[:, 0], mask_BT.flatten().nonzero()[:, 0]
    routed: dict[str, Any] = {}

    def at_router(name: str, _: Any, args: Any, out: Any) -> None:
        routed[name] = [t.flatten(0, -2)[real_N] for t in out]

    def at_experts(block: Block, _: Any, args: Any, out: Tensor) -> None:
        x_ND, out_ND = (t.flatten(0, -2)[real_N] for t in (args[0], out))
        see(block, _Seen(row_N, len(mask_BT), x_ND, out_ND, *routed.pop(block.name)))

    handles = [b.router.register_forward_hook(partial(at_router, b.name)) for b in backbone.blocks]
    handles += [b.experts.register_forward_hook(partial(at_experts, b)) for b in backbone.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
