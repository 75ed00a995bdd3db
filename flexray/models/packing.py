"""Rows without padding: a seat's rows stand one behind another, and attention alone knows where each begins.

All else in a model works token by token, so padding would only be computed in vain. Attention gets each row by itself, from
its own start: the packed queries, keys and values are gathered into padded rows, go through the attention that the model
has, and what comes out is put back. Shape suffixes: K seats, L tokens of a packed seat, N rows, T tokens of the longest row,
H heads, C channels of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

PREFIX = "flexray_packed_"
"""Before the name of the attention that sees each row, in the name under which transformers knows this one."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Where N rows are among the flat tokens of K packed seats [K, L]. All on one device, with nothing to ask of it.

    out [N·T]: the flat token at each place of the padded rows (any, at padding); back [K·L]: the place of each flat token
    (any, behind a seat's rows); real_out and real_back: 1 where that is a token, 0 where it is any, None where all are tokens.
    """

    longest: int
    out: Tensor
    back: Tensor
    real_out: Tensor | None
    real_back: Tensor | None


def lay(lengths_by_seat: Sequence[Sequence[int]]) -> tuple[np.ndarray, int]:
    """[N] the flat token at which each row begins, and L."""
    wide = max(sum(lengths) for lengths in lengths_by_seat)
    starts = [k * wide + np.cumsum([0, *lengths[:-1]]) for k, lengths in enumerate(lengths_by_seat)]
    return np.concatenate(starts), wide


def rows_of(lengths: np.ndarray, starts: np.ndarray, tokens: int, send: Any) -> Rows:
    """The index maps of rows [N] with these lengths and starts among so many flat tokens; `send` takes arrays to the device."""
    longest, column = int(lengths.max()), np.arange(int(lengths.max()))
    real_out = column < lengths[:, None]
    out = np.where(real_out, starts[:, None] + column, 0)
    back, real_back = np.zeros(tokens, np.int64), np.zeros(tokens, bool)
    back[out[real_out]] = np.flatnonzero(real_out)
    real_back[out[real_out]] = True
    masks = [None if real.all() else send(real.reshape(-1, 1)) for real in (real_out, real_back)]
    return Rows(longest, send(out.ravel()), send(back), *masks)


def enable(model: Any) -> bool:
    """Lets the model's attention take packed rows (as the argument `rows` of its forward); False where it has no door for it."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    inner = model.config._attn_implementation
    masks = {"sdpa": sdpa_mask, "eager": eager_mask}
    if inner.startswith(PREFIX):
        return True
    if inner not in masks or not model._can_set_attn_implementation():
        return False
    ALL_ATTENTION_FUNCTIONS.register(PREFIX + inner, partial(_attend, inner))
    ALL_MASK_ATTENTION_FUNCTIONS.register(PREFIX + inner, masks[inner])
    model.set_attn_implementation(PREFIX + inner)
    return model.config._attn_implementation == PREFIX + inner


def inputs(ids_KL: Tensor, positions_KL: Tensor, rows: Rows) -> dict[str, Any]:
    """What a packed forward gives to the model."""
    # A mask with four dimensions is taken for a finished one: none is made, and the attention below needs none.
    mask = torch.empty(1, 1, 1, 1, device=ids_KL.device)
    return {"input_ids": ids_KL, "position_ids": positions_KL, "attention_mask": mask, "rows": rows, "use_cache": False}


@torch.no_grad()
def works(model: Any) -> bool:
    """Whether packed rows come out of this model as they do one by one: tried, as other blocks than attention may mix tokens."""
    generator, config = torch.Generator().manual_seed(0), model.config.get_text_config()
    if not enable(model) or {*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}:
        return False
    one, two = (torch.randint(0, config.vocab_size, (n,), generator=generator) for n in (7, 12))
    try:
        packed = _packed_logits(model, [one, two])
    except TypeError:  # a forward without room for further arguments
        return False
    alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in (one, two)])
    other = model(input_ids=two[None].roll(1, 1), use_cache=False).logits[0]
    # Rounding may send a token to another expert: most must agree, to far less than what another text makes of them.
    scale = (other - alone[len(one) :]).float().std()
    near = (packed - alone).float().abs().amax(1) < 0.1 * scale
    return bool(near.float().mean() > 0.8)


def _packed_logits(model: Any, rows: list[Tensor]) -> Tensor:
    lengths = [len(row) for row in rows]
    starts, wide = lay([lengths])
    where = rows_of(np.array(lengths), starts, wide, torch.from_numpy)
    positions = torch.cat([torch.arange(n) for n in lengths])
    return model(**inputs(torch.cat(rows)[None], positions[None], where)).logits[0]


def _attend(
    inner: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rows: Rows | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention `inner` of padded rows, or of each packed row: [K, H, L, C] to [K, L, H, C]."""
    attention = _inner(inner, module)
    if rows is None:
        return attention(module, query, key, value, attention_mask, **options)
    padded = [_gathered(t.transpose(1, 2), rows).transpose(1, 2) for t in (query, key, value)]
    window = options.get("sliding_window") or getattr(module, "sliding_window", None)
    mask = _mask(inner, rows.longest, window, query)
    out_NTHC, _ = attention(module, *padded, mask, **options)
    flat = _Gather.apply(out_NTHC.flatten(0, 1).flatten(1), rows.back, rows.out, rows.real_out)
    return flat.view(query.shape[0], query.shape[2], out_NTHC.shape[2], -1), None


def _gathered(t_KLHC: Tensor, rows: Rows) -> Tensor:
    """[N, T, H, C]"""
    flat = _Gather.apply(t_KLHC.flatten(0, 1).flatten(1), rows.out, rows.back, rows.real_back)
    return flat.view(-1, rows.longest, *t_KLHC.shape[2:])


class _Gather(torch.autograd.Function):
    """Rows of x [P, …] in another order, where each is wanted at most once; the gradient is gathered too, nothing is added up."""

    @staticmethod
    def forward(ctx, x, order, back, real):
        ctx.save_for_backward(back, *(() if real is None else (real,)))
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        back, *real = ctx.saved_tensors
        grad_x = grad.index_select(0, back)
        return (grad_x * real[0] if real else grad_x), None, None, None


def _inner(name: str, module: Any) -> Any:
    """transformers' attention of that name; the eager one is each model's own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


def _mask(inner: str, longest: int, window: int | None, like: Tensor) -> Tensor | None:
    """Causal, within a window: none where the attention sees to it itself."""
    if inner == "sdpa" and (window is None or window >= longest):
        return None
    place = torch.arange(longest, device=like.device)
    behind = place[:, None] - place
    seen = (behind >= 0) & (behind < (window or longest))
    if inner == "sdpa":
        return seen[None, None]
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, torch.finfo(like.dtype).min)[None, None]
