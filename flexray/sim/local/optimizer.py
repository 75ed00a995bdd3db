"""Optimizers over the seats' flat buffers: a few elementwise operations whatever the number of tensors.

Every seat has its own step count, learning rate and gradient norm; a seat whose steps are over stands still.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[[Sequence[bool], float], None]
"""One step; [K] says which seats still move, the number by what to multiply the learning rate (warm-up)."""


def sgd(p: Tensor, g: Tensor, lr: Sequence[float], weight_decay: float) -> Step:
    """p ← p − lr·(g + weight_decay·p), for p and g [K, P] and lr [K]."""

    def step(moving: Sequence[bool], scale: float = 1.0) -> None:
        for k in _which(moving):
            change = g[k] if weight_decay == 0 else g[k] + weight_decay * p[k]
            p[k].sub_(change, alpha=lr[k] * scale)

    return step


def adamw(
    p: Tensor, g: Tensor, lr: Sequence[float], weight_decay: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Step:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), for p and g [K, P] and lr [K].

    By torch's fused kernel, one pass over each seat; its optimizer class around it costs a second and 75 MB to import in each
    process, and cannot stop single seats.
    """
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    counts = [torch.zeros((), device=p.device) for _ in range(len(p))]
    options = {
        "beta1": betas[0],
        "beta2": betas[1],
        "weight_decay": weight_decay,
        "eps": eps,
        "amsgrad": False,
        "maximize": False,
    }

    def step(moving: Sequence[bool], scale: float = 1.0) -> None:
        for k in _which(moving) if p.shape[1] else ():
            counts[k] += 1
            torch.ops.aten._fused_adamw_([p[k]], [g[k]], [m[k]], [v[k]], [], [counts[k]], lr=lr[k] * scale, **options)

    return step


def _which(moving: Sequence[bool]) -> list[int]:
    return [k for k, moves in enumerate(moving) if moves]


def clip_(gradients: list[Tensor], limit: float) -> None:
    """Scale each seat's gradients (one [K, P] buffer per part) so that their joint norm is at most `limit`."""
    norm = torch.stack([g.square().sum(1) for g in gradients]).sum(0).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)[:, None]
    for g in gradients:
        g.mul_(scale)
