"""Rows to a batch, a batch to the loss of its responses.

Shape legend: K seats · B rows per seat · N = K·B rows · T tokens of a row · L tokens of a seat · M response tokens · S of
the longest response · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flexray.models import packing
from flexray.models.backbone import Backbone
from flexray.parts import Part

Row = tuple[np.ndarray, int]
"""Tokens, and where the response starts."""
NO_ROW: Row = (np.zeros(1, np.int32), 1 << 30)
"""Fills the place of a row that a seat does not have: one token, no response."""


@dataclass(frozen=True)
class Batch:
    """N rows ordered by seat, padded on the right: causal models never look at padding, so no attention mask is needed.

    Padded row by row: ids [N, T], lengths [N]. Packed: ids [K, L] with a seat's rows one behind another, lengths [K], and
    `packed` says at which place of its row each token [K, L] is, and where the rows are. starts [N]: where each response starts in
    its row; widths: the widest of each seat's lengths. answers: the response tokens.
    """

    ids: Tensor
    lengths: Tensor
    starts: Tensor
    widths: tuple[int, ...]
    answers: Answers
    packed: tuple[Tensor, packing.Rows] | None = None


@dataclass(frozen=True)
class Answers:
    """M response tokens of N rows: at [M] the flat place of the token before each, by which it is predicted; their ids [M];
    counted [N, S]: which places of each response there are."""

    at: Tensor
    ids: Tensor
    counted: Tensor


class Response(NamedTuple):
    """What the model makes of each place [N, S] of the responses, from their first token on."""

    nll: Tensor
    """−log p of the token, in nats; zero behind the response."""
    hit: Tensor
    """Whether the token is the model's most likely one; false behind the response."""
    counted: Tensor
    """Whether the place is in the response."""


def collate(rows_by_seat: Sequence[Sequence[Row]], device: str = "cpu") -> Batch:
    """Each seat's rows (the same number B for all) to one batch, each row padded to the longest."""
    rows, send = [row for rows in rows_by_seat for row in rows], _sender(device)
    lengths = np.array([len(tokens) for tokens, _ in rows])
    ids, starts = np.zeros((len(rows), lengths.max()), np.int64), np.arange(len(rows)) * lengths.max()
    _write(ids, rows, starts)
    widths = lengths.reshape(len(rows_by_seat), -1).max(1)
    return Batch(
        send(ids), send(lengths), send(np.array([s for _, s in rows])), tuple(widths.tolist()), _answers(rows, starts, send)
    )


def pack(rows_by_seat: Sequence[Sequence[Row]], device: str = "cpu") -> Batch:
    """Each seat's rows to one batch, one behind another; seats are padded to the longest."""
    rows, send = [row for rows in rows_by_seat for row in rows], _sender(device)
    by_seat = [[len(tokens) for tokens, _ in own] for own in rows_by_seat]
    starts, wide = packing.lay(by_seat)
    lengths, totals = np.array([len(tokens) for tokens, _ in rows]), [sum(own) for own in by_seat]
    ids, positions = np.zeros((len(by_seat), wide), np.int64), np.zeros((len(by_seat), wide), np.int64)
    _write(ids, rows, starts)
    _write(positions, [(np.arange(n), 0) for n in lengths], starts)
    return Batch(
        ids=send(ids), lengths=send(np.array(totals)), starts=send(np.array([s for _, s in rows])), widths=tuple(totals),
        answers=_answers(rows, starts, send), packed=(send(positions), packing.rows_of(lengths, starts, ids.size, send)),
    )  # fmt: skip


def batcher(backbone: Backbone, parts: Iterable[Part]) -> Callable[[Sequence[Sequence[Row]]], Batch]:
    """Rows to batches for this model and these parts: packed, unless the model or a part must see each row by itself."""
    by_row = any(p.kind == "anchors" for p in parts) or not backbone.packs
    return partial(collate if by_row else pack, device=str(backbone.device))


def respond(backbone: Backbone, batch: Batch) -> Response:
    """The model's view of every response token, given all before it."""
    answers = batch.answers
    logits_MV = _logits(backbone, batch, answers.at).float()
    nll_M = F.cross_entropy(logits_MV, answers.ids, reduction="none")
    nll = nll_M.new_zeros(answers.counted.shape).masked_scatter(answers.counted, nll_M)
    hit = torch.zeros_like(answers.counted).masked_scatter(answers.counted, logits_MV.detach().argmax(-1) == answers.ids)
    return Response(nll, hit, answers.counted)


def filled(rows: Sequence[Sequence[Any]], batch: int, filler: Any) -> Iterator[list[list[Any]]]:
    """`batch` of each seat's rows at a time, as many for all seats: where one has run out it gets the filler."""
    for i in range(0, max(map(len, rows)), batch):
        chosen = [list(mine[i : i + batch]) for mine in rows]
        width = max(map(len, chosen))
        yield [mine + [filler] * (width - len(mine)) for mine in chosen]


def _logits(backbone: Backbone, batch: Batch, at_M: Tensor) -> Tensor:
    """[M, V] at these flat places alone: the head is never applied to prompts or padding."""
    model: Any = backbone.model
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: (args[0].flatten(0, 1).index_select(0, at_M)[None],)
    )
    more = packing.inputs(batch.ids, *batch.packed) if batch.packed else {"input_ids": batch.ids, "use_cache": False}
    try:
        return model(**more).logits[0]
    finally:
        hook.remove()


def _answers(rows: Sequence[Row], starts: np.ndarray, send: Callable[[np.ndarray], Tensor]) -> Answers:
    """The response tokens of rows that begin at these flat places; there is a prompt before each."""
    counts = [max(0, len(tokens) - start) for tokens, start in rows]
    lasts = [int(first) + start - 1 for first, (_, start) in zip(starts, rows, strict=True)]
    none = np.zeros(0, np.int64)
    at = np.concatenate([none, *(np.arange(last, last + n) for last, n in zip(lasts, counts, strict=True) if n)])
    ids = np.concatenate([none, *(tokens[start:] for tokens, start in rows if len(tokens) > start)]).astype(np.int64)
    return Answers(send(at), send(ids), send(np.arange(max(counts)) < np.array(counts)[:, None]))


def _write(out: np.ndarray, rows: Sequence[Row], starts: np.ndarray) -> None:
    flat = out.reshape(-1)
    for (tokens, _), start in zip(rows, starts, strict=True):
        flat[start : start + len(tokens)] = tokens


def _sender(device: str) -> Callable[[np.ndarray], Tensor]:
    """Takes arrays to the device; to a GPU from pinned memory, without waiting."""
    if torch.device(device).type == "cpu":
        return torch.from_numpy
    return lambda array: torch.from_numpy(array).pin_memory().to(device, non_blocking=True)
