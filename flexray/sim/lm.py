"""Rows to a batch, a batch to the loss of its responses.

Shape legend: K seats · B rows per seat · N = K·B rows · T tokens · S positions from the first response on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flexray.models.backbone import Backbone

Row = tuple[np.ndarray, int]
"""Tokens, and where the response starts."""
NO_ROW: Row = (np.zeros(1, np.int32), 1 << 30)
"""Fills the place of a row that a seat does not have: one token, no response."""


@dataclass(frozen=True)
class Batch:
    """N rows ordered by seat, padded on the right. Causal models never look at padding, so no attention mask is needed.

    ids [N, T]; lengths [N]; starts [N] where each response starts; first: the smallest of them; widths: each seat's own
    longest row.
    """

    ids: Tensor
    lengths: Tensor
    starts: Tensor
    first: int
    widths: tuple[int, ...]


class Response(NamedTuple):
    """What the model makes of each position [N, S] from the batch's first response token on."""

    nll: Tensor
    """−log p of the token, in nats; zero outside responses."""
    hit: Tensor
    """Whether the token is the model's most likely one; false outside responses."""
    counted: Tensor
    """Whether the position is in a response."""


def collate(rows_by_seat: Sequence[Sequence[Row]], device: str = "cpu") -> Batch:
    """Each seat's rows (the same number B for all) to one batch."""
    rows = [row for rows in rows_by_seat for row in rows]
    lengths = np.array([len(tokens) for tokens, _ in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for i, (tokens, _) in enumerate(rows):
        ids[i, : len(tokens)] = tokens
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        lengths=torch.from_numpy(lengths).to(device),
        starts=torch.tensor([start for _, start in rows], device=device),
        first=min(start for _, start in rows),
        widths=tuple(int(w) for w in lengths.reshape(len(rows_by_seat), -1).max(1)),
    )


def respond(backbone: Backbone, batch: Batch) -> Response:
    """The model's view of every response token, given all before it."""
    width = batch.ids.shape[1]
    keep = width - batch.first + 1  # the token before a response predicts its first one
    logits = backbone.model(input_ids=batch.ids, use_cache=False, logits_to_keep=keep).logits[:, :-1]
    position = torch.arange(batch.first, width, device=batch.ids.device)
    counted = (position >= batch.starts[:, None]) & (position < batch.lengths[:, None])
    logits, target = logits[counted].float(), batch.ids[:, batch.first :][counted]
    nll = logits.new_zeros(counted.shape).masked_scatter(counted, F.cross_entropy(logits, target, reduction="none"))
    hit = torch.zeros_like(counted).masked_scatter(counted, logits.detach().argmax(-1) == target)
    return Response(nll, hit, counted)


def seat_loss(response: Response, seats: int) -> Tensor:
    """[K] mean loss over each seat's own response tokens; zero for a seat that has none."""
    tokens = response.counted.view(seats, -1).sum(1).clamp(min=1)
    return response.nll.view(seats, -1).sum(1) / tokens


def filled(rows: Sequence[Sequence[Any]], batch: int, filler: Any) -> Iterator[list[list[Any]]]:
    """`batch` of each seat's rows at a time, as many for all seats: where one has run out it gets the filler."""
    for i in range(0, max(map(len, rows)), batch):
        chosen = [list(mine[i : i + batch]) for mine in rows]
        width = max(map(len, chosen))
        yield [mine + [filler] * (width - len(mine)) for mine in chosen]
