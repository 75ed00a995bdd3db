"""The seats' optimizers against torch's own, one seat at a time."""

import pytest
import torch

from flexray.sim.local.optimizer import adamw, clip_, sgd

PEERS = {adamw: torch.optim.AdamW, sgd: torch.optim.SGD}


@pytest.mark.parametrize("make", [adamw, sgd])
def test_every_seat_moves_as_torch_moves_it_alone(make):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    lr, steps = [0.1, 0.02, 0.3], [4, 2, 0]
    gradients = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    p, g = start.clone(), torch.zeros_like(start)
    step = make(p, g, lr, 0.1)
    for t, gradient in enumerate(gradients):
        g.copy_(gradient)
        step([t < n for n in steps])
    for k, n in enumerate(steps):
        alone = start[k].clone().requires_grad_()
        peer = PEERS[make]([alone], lr=lr[k], weight_decay=0.1)
        for gradient in gradients[:n, k]:
            alone.grad = gradient.clone()
            peer.step()
        torch.testing.assert_close(p[k], alone.detach(), rtol=1e-12, atol=1e-14)


def test_clipping_is_per_seat_over_all_parts():
    # seat 0: joint norm 5 over two parts, cut to 1: (3, 4) → (0.6, 0.8); seat 1: norm 0.5, left alone
    one, two = torch.tensor([[3.0], [0.3]]), torch.tensor([[4.0], [0.4]])
    clip_([one, two], 1.0)
    torch.testing.assert_close(one, torch.tensor([[0.6], [0.3]]), rtol=1e-5, atol=0)
    torch.testing.assert_close(two, torch.tensor([[0.8], [0.4]]), rtol=1e-5, atol=0)
