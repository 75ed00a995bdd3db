"""Beyond a prompt, with its keys and values kept: greedy decoding, and the likelihood of given continuations.

Prompts are padded on the left, so that all rows end in the same column. Rows of several seats stand one seat after
another and nothing here looks across rows: K seats in one forward give what they give one by one.

Shape legend: K seats · B rows per seat · N = K·B rows · T tokens of prompts · S tokens beyond them · C continuations of a
row · M = N·C · E end marks · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flexray.models.backbone import Backbone

NO_PROMPT = np.zeros(1, np.int32)
"""Fills the place of a row that a seat does not have."""


@dataclass
class Prefix:
    """What the model keeps of N prompts, and what it expects next.

    cache: the model's own; mask [N, T]: what is no padding; lengths [N]: tokens so far; logits [N, V]: of the next token.
    """

    cache: Any
    mask: Tensor
    lengths: Tensor
    logits: Tensor


@torch.no_grad()
def prefill(backbone: Backbone, prompts: Sequence[np.ndarray]) -> Prefix:
    """The prompts once through the model. None may be empty."""
    width = max(map(len, prompts))
    ids, mask = np.zeros((len(prompts), width), np.int64), np.zeros((len(prompts), width), np.int64)
    for i, tokens in enumerate(prompts):
        ids[i, width - len(tokens) :], mask[i, width - len(tokens) :] = tokens, 1
    ids_NT, mask_NT = (torch.from_numpy(a).to(backbone.device) for a in (ids, mask))
    position_NT = (mask_NT.cumsum(1) - 1).clamp(min=0)
    out = backbone.model(input_ids=ids_NT, attention_mask=mask_NT, position_ids=position_NT, use_cache=True, logits_to_keep=1)
    return Prefix(out.past_key_values, mask_NT, mask_NT.sum(1), out.logits[:, -1])


@torch.no_grad()
def greedy(
    backbone: Backbone, rows_by_seat: Sequence[Sequence[np.ndarray]], ends: Sequence[int], limit: int, shrink: bool = True,
    pick: Callable[[Tensor], Tensor] | None = None,
) -> list[list[list[int]]]:  # fmt: skip
    """What follows each prompt: the most likely tokens, up to one of `ends` (left out) or `limit` of them.

    pick: another choice of the next tokens [N] by their logits [N, V].

    Every seat has the same number of rows. Where half of all seats' rows are done, rows are left out of the forward, unless
    not `shrink`: what hooks remember of rows then stays right.
    """
    prompts, seats = [prompt for rows in rows_by_seat for prompt in rows], len(rows_by_seat)
    said: list[list[int]] = [[] for _ in prompts]
    prefix, row_N = prefill(backbone, prompts), torch.arange(len(prompts))
    end_E = torch.tensor(list(ends), device=backbone.device)
    done_N = torch.tensor([prompt is NO_PROMPT for prompt in prompts])
    for step in range(limit):
        token_N = pick(prefix.logits.float()) if pick else prefix.logits.float().argmax(-1)
        done_N = done_N | torch.isin(token_N, end_E).cpu()
        for row, token in zip(row_N[~done_N].tolist(), token_N.cpu()[~done_N].tolist(), strict=True):
            said[row].append(token)
        if step == limit - 1 or bool(done_N.all()):
            break
        if shrink and (kept := _unfinished(done_N.view(seats, -1))) is not None:
            row_N, done_N, token_N = row_N[kept], done_N[kept], token_N[kept.to(token_N.device)]
            _select(prefix, kept.to(token_N.device))
        _advance(backbone, prefix, token_N)
    each = len(prompts) // seats
    return [said[i : i + each] for i in range(0, len(prompts), each)]


@torch.no_grad()
def likelihoods(backbone: Backbone, prefix: Prefix, continuations: Sequence[Sequence[np.ndarray]]) -> Tensor:
    """[N, C] −log p of each row's continuations, in nats; infinite where a row has fewer. Uses the prefix up."""
    most = max(map(len, continuations))
    flat = [row[c] if c < len(row) else NO_PROMPT for row in continuations for c in range(most)]
    there = torch.tensor([c < len(row) for row in continuations for c in range(most)])
    width = max(map(len, flat))
    ids = np.zeros((len(flat), width), np.int64)
    for i, tokens in enumerate(flat):
        ids[i, : len(tokens)] = tokens
    ids_MS = torch.from_numpy(ids).to(backbone.device)
    lengths_M = torch.tensor([len(tokens) for tokens in flat], device=backbone.device)
    counted_MS = torch.arange(width, device=backbone.device) < lengths_M[:, None]
    logits_MSV = prefix.logits.repeat_interleave(most, 0)[:, None]
    if width > 1:
        logits_MSV = torch.cat([logits_MSV, _continued(backbone, prefix, ids_MS[:, :-1], counted_MS[:, :-1], most)], 1)
    nll = F.cross_entropy(logits_MSV[counted_MS].float(), ids_MS[counted_MS], reduction="none").double()
    nll_M = nll.new_zeros(ids_MS.shape).masked_scatter(counted_MS, nll).sum(1).cpu()
    return nll_M.masked_fill(~there, torch.inf).view(-1, most)


def _advance(backbone: Backbone, prefix: Prefix, token_N: Tensor) -> None:
    """One token more."""
    prefix.mask = F.pad(prefix.mask, (0, 1), value=1)
    out = backbone.model(
        input_ids=token_N[:, None], attention_mask=prefix.mask, position_ids=prefix.lengths[:, None],
        past_key_values=prefix.cache, use_cache=True,
    )  # fmt: skip
    prefix.cache, prefix.logits, prefix.lengths = out.past_key_values, out.logits[:, -1], prefix.lengths + 1


def _unfinished(done_KB: Tensor) -> Tensor | None:
    """The rows to go on with, as many for each seat, if those are at most half of all."""
    need = int((~done_KB).sum(1).max())
    if need > done_KB.shape[1] // 2:
        return None
    place_KB = torch.arange(done_KB.shape[0])[:, None] * done_KB.shape[1]
    return (done_KB.byte().argsort(dim=1, stable=True)[:, :need] + place_KB).flatten()


def _select(prefix: Prefix, kept: Tensor) -> None:
    prefix.cache.batch_select_indices(kept)
    prefix.mask, prefix.lengths = prefix.mask[kept], prefix.lengths[kept]


def _continued(backbone: Backbone, prefix: Prefix, ids_MS: Tensor, there_MS: Tensor, each: int) -> Tensor:
    """Logits [M, S, V] of what follows each token of `each` continuations per row."""
    prefix.cache.batch_repeat_interleave(each)
    mask = torch.cat([prefix.mask.repeat_interleave(each, 0), there_MS.long()], 1)
    position = prefix.lengths.repeat_interleave(each)[:, None] + torch.arange(ids_MS.shape[1], device=ids_MS.device)
    return backbone.model(
        input_ids=ids_MS, attention_mask=mask, position_ids=position, past_key_values=prefix.cache, use_cache=True
    ).logits
