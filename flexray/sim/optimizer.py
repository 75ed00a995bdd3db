"""Optimizers over the seats' flat buffers: a few elementwise operations whatever the number of tensors.

Every seat has its own step count, learning rate and gradient norm; a seat whose steps are over stands still.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, float], None]
"""One step; [K] says which seats still move, the number by what to multiply the learning rate (warm-up)."""


def sgd(p: Tensor, g: Tensor, lr: Tensor, weight_decay: float) -> Step:
    """p ← p − lr·(g + weight_decay·p), for p and g [K, P] and lr [K]."""

    def step(moving: Tensor, scale: float = 1.0) -> None:
        p.sub_((lr * scale * moving)[:, None] * (g + weight_decay * p))

    return step


def adamw(
    p: Tensor, g: Tensor, lr: Tensor, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Step:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), for p and g [K, P] and lr [K].

    The library's own costs a second and 75 MB to import in each process, and cannot stop single seats.
    """
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    count = torch.zeros_like(lr)

    def step(moving: Tensor, scale: float = 1.0) -> None:
        rate_K = lr * scale * moving
        count.add_(moving)
        m.lerp_(g, 1 - betas[0])
        v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
        n = count.clamp(min=1)
        rate = (rate_K / (1 - betas[0] ** n))[:, None]
        denominator = v.sqrt().div_(((1 - betas[1] ** n).sqrt())[:, None]).add_(eps)
        p.mul_(1 - (rate_K * weight_decay)[:, None])
        p.sub_(rate * m / denominator)

    return step


def clip_(gradients: list[Tensor], limit: float) -> None:
    """Scale each seat's gradients (one [K, P] buffer per part) so that their joint norm is at most `limit`."""
    norm = torch.stack([g.square().sum(1) for g in gradients]).sum(0).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)[:, None]
    for g in gradients:
        g.mul_(scale)
