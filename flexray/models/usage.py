"""Usage: how many tokens the router sends to each expert, per seat.

Shape suffixes: K seats, E experts, N rows of a batch (K·B), M flat tokens (N·T), k experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexray.state import State

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone
    from flexray.models.family import Block


class Usage:
    """Counts of all forwards made inside `counting`; padding is not counted, nor a choice that stands for no expert."""

    def __init__(self, backbone: Backbone, seats: int):
        self.backbone, self.seats = backbone, seats
        self._counts = {b.name: torch.zeros(seats, b.n_experts, device=backbone.device) for b in backbone.blocks}

    @contextmanager
    def counting(self, lengths_N: Tensor, moving_K: Tensor | None = None) -> Iterator[None]:
        """Inside, forwards of N right-padded rows ordered by seat are counted; `moving_K` 0 leaves a seat out."""
        rows_K = torch.ones(self.seats, device=lengths_N.device) if moving_K is None else moving_K
        real_N = lengths_N * rows_K.to(lengths_N.dtype).repeat_interleave(len(lengths_N) // self.seats)
        with outermost(self.backbone) as counts:
            hooks = [b.experts.register_forward_pre_hook(partial(self._count, b, real_N, counts)) for b in self.backbone.blocks]
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def counts(self) -> State:
        """Block name to [K, E]; a token with k experts counts once for each of them."""
        return {name: t.clone() for name, t in self._counts.items()}

    def _count(self, block: Block, lengths_N: Tensor, counts: Callable[[], bool], _: Any, args: Any) -> None:
        if counts():
            index_Mk = args[1]
            real_M = real_tokens(lengths_N, len(index_Mk))
            self._counts[block.name] += chosen(index_Mk, real_M, self.seats, block.n_experts)


@contextmanager
def outermost(backbone: Backbone) -> Iterator[Callable[[], bool]]:
    """Tells whether the model's forward is one that was asked for, not one within it (as anchors make, of the rows' prompts), nor
    a layer's, made again in the backward."""
    body: Any = backbone.model.base_model
    depth = [0]

    def enter(*_: Any) -> None:
        depth[0] += 1

    def leave(*_: Any) -> None:
        depth[0] -= 1

    hooks = [body.register_forward_pre_hook(enter, prepend=True), body.register_forward_hook(leave, always_call=True)]
    try:
        yield lambda: depth[0] == 1
    finally:
        for hook in hooks:
            hook.remove()


def real_tokens(lengths_N: Tensor, tokens: int) -> Tensor:
    """[M] whether each of so many flat tokens of right-padded rows is one, or padding."""
    return (torch.arange(tokens // len(lengths_N), device=lengths_N.device) < lengths_N[:, None]).flatten()


def chosen(index_Mk: Tensor, real_M: Tensor, seats: int, experts: int) -> Tensor:
    """[K, E] how often real tokens, ordered by seat, chose each expert."""
    seat_M1 = torch.arange(len(index_Mk), device=index_Mk.device)[:, None] // (len(index_Mk) // seats)
    counted_Mk = (index_Mk < experts) & real_M[:, None]
    cell_S = (seat_M1 * experts + index_Mk)[counted_Mk]
    return torch.bincount(cell_S, minlength=seats * experts).view(seats, experts)
