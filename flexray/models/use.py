"""What of a model's seats takes effect in the forward that runs now, as all hooks look it up.

Shape suffixes: K seats, B rows, T tokens, N flat tokens, D width, M weighed adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Use:
    """The parts in use and in training, and what is known of the batch; see `Seats.using`."""

    seats: int
    parts: frozenset[str] = frozenset()
    train: frozenset[str] = frozenset()
    dropout: Sequence[torch.Generator] | None = None
    widths: Sequence[int] | None = None
    starts: Tensor | None = None
    shares: dict[str, Tensor] = field(default_factory=dict)
    """Anchors part to the shares [K, B, M] of the rows in the model, until other rows are."""

    def seated(self, t: Tensor) -> Tensor:
        """Any activation as [K, N, D]."""
        return t.reshape(self.seats, -1, t.shape[-1])

    def dropped(self, names: frozenset[str], p: float, x: Tensor) -> Tensor:
        """An adapter's input [K·B, T, D] after dropout, if one of its parts `names` is in training."""
        if p == 0 or self.dropout is None or not names & self.train:
            return x
        return dropped(x.view(self.seats, -1, *x.shape[-2:]), p, self.dropout, self.widths)


def dropped(x_KBTD: Tensor, p: float, generators: Sequence[torch.Generator], widths: Sequence[int] | None) -> Tensor:
    """Dropout whose mask, seat by seat, comes from that seat's generator and covers its own `widths[k]` tokens only.

    So a seat's masks do not depend on who shares the forward; what a wider neighbour pads stays as it is.
    """
    _, B, T, D = x_KBTD.shape
    masks = []
    for generator, width in zip(generators, widths or [T] * len(generators), strict=True):
        mask_BTD = torch.empty(B, width, D, device=x_KBTD.device, dtype=x_KBTD.dtype)
        mask_BTD.bernoulli_(1 - p, generator=generator).div_(1 - p)
        masks.append(F.pad(mask_BTD, (0, 0, 0, T - width), value=1.0))
    return x_KBTD * torch.stack(masks)
