"""The forward of frozen experts against plain loops and against transformers' own, slow and simple, forward."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.integrations.moe import use_experts_implementation

from flexray.models import experts
from tests.models.small import FAMILIES, backbone

E, D, I, N = 5, 8, 6, 12  # noqa: E741
FLAGS = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm")


def random_experts(seed=0, dtype=torch.float64, **flags) -> nn.Module:
    """Experts with these layout flags, and random weights."""

    class Experts(nn.Module):
        def __init__(self, config):
            super().__init__()
            generator = torch.Generator().manual_seed(seed)

            def make(*shape):
                return nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype), requires_grad=False)

            def matrix(into, out):
                return make(E, into, out) if flags["is_transposed"] else make(E, out, into)

            name, inner = ("gate_up_proj", 2 * I) if flags["has_gate"] else ("up_proj", I)
            self.num_experts, self.act_fn = E, nn.SiLU()
            setattr(self, name, matrix(D, inner))
            self.down_proj = matrix(I, D)
            if flags["has_bias"]:
                setattr(self, f"{name}_bias", make(E, inner))
                self.down_proj_bias = make(E, D)
            if flags["has_post_expert_norm"]:
                self.post_expert_norm = nn.RMSNorm(D, dtype=dtype).requires_grad_(False)

        def forward(self, *_):
            raise AssertionError("not dispatched")

    return use_experts_implementation(Experts, **flags)(None)


def routing(n=N, k=2, dtype=torch.float64, among=E):
    generator = torch.Generator().manual_seed(3)
    x_ND = torch.randn(n, D, generator=generator, dtype=dtype)
    index_Nk = torch.stack([torch.randperm(among, generator=generator)[:k] for _ in range(n)])
    return x_ND, index_Nk, torch.rand(n, k, generator=generator, dtype=dtype)


def plain(e, x_ND, index_Nk, weight_Nk):
    """Token by token, expert by expert."""
    name = "gate_up_proj" if e.has_gate else "up_proj"

    def linear(which, i, x):
        weight = getattr(e, which)[i]
        y = (weight.T if e.is_transposed else weight) @ x
        return y + getattr(e, f"{which}_bias")[i] if e.has_bias else y

    rows = []
    for x, index, weight in zip(x_ND, index_Nk.tolist(), weight_Nk, strict=True):
        total = torch.zeros_like(x)
        for i, w in zip(index, weight, strict=True):
            if i >= E:
                continue
            inner = linear(name, i, x)
            inner = F.silu(inner[:I]) * inner[I:] if e.has_gate else F.silu(inner)
            out = linear("down_proj", i, inner)
            total = total + w * (e.post_expert_norm(out) if e.has_post_expert_norm else out)
        rows.append(total)
    return torch.stack(rows)


def gradients(forward, e, x_ND, index_Nk, weight_Nk):
    """The output, and the gradients of an arbitrary loss for tokens and routing weights."""
    x_ND, weight_Nk = x_ND.clone().requires_grad_(), weight_Nk.clone().requires_grad_()
    y_ND = forward(e, x_ND, index_Nk, weight_Nk)
    direction = torch.randn(y_ND.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(y_ND.dtype)
    return (y_ND, *torch.autograd.grad((y_ND * direction).sum(), (x_ND, weight_Nk)))


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)), ids=str)
def test_every_layout_equals_the_plain_loop(flags):
    e = random_experts(**dict(zip(FLAGS, flags, strict=True)))
    for ours, theirs in zip(gradients(experts.experts_forward, e, *routing()), gradients(plain, e, *routing()), strict=True):
        torch.testing.assert_close(ours, theirs)


PLAIN = dict.fromkeys(FLAGS, False) | {"has_gate": True}


@pytest.mark.parametrize("k", [1, 5])
def test_one_expert_and_all_experts(k):
    e, given = random_experts(**PLAIN), routing(k=k)
    torch.testing.assert_close(experts.experts_forward(e, *given), plain(e, *given))


def test_experts_without_tokens_and_tokens_without_experts():
    e = random_experts(**PLAIN)
    x_ND, index_Nk, weight_Nk = routing(among=2)  # experts 2, 3, 4 stay idle
    torch.testing.assert_close(experts.experts_forward(e, x_ND, index_Nk, weight_Nk), plain(e, x_ND, index_Nk, weight_Nk))
    index_Nk[::3, 0] = E  # stands for no expert
    ours, theirs = (gradients(f, e, x_ND, index_Nk, weight_Nk) for f in (experts.experts_forward, plain))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    nothing = experts.experts_forward(e, x_ND[:0], index_Nk[:0], weight_Nk[:0])
    assert nothing.shape == (0, D)


def test_bits_do_not_depend_on_the_other_tokens_order():
    e, (x_ND, index_Nk, weight_Nk) = random_experts(**PLAIN), routing()
    again = experts.experts_forward(e, x_ND, index_Nk, weight_Nk)
    assert torch.equal(again, experts.experts_forward(e, x_ND, index_Nk, weight_Nk))


def test_experts_that_are_trained_are_no_business_of_ours():
    e = random_experts(**PLAIN)
    e.down_proj.requires_grad_(True)
    with pytest.raises(AssertionError, match="frozen"):
        experts.experts_forward(e, *routing())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_familys_own_forward(name, dtype):
    block = backbone(name, dtype).blocks[-1]
    generator = torch.Generator().manual_seed(5)
    x_ND = torch.randn(40, block.width, generator=generator).to(dtype)
    _, weight_Nk, index_Nk = block.router(x_ND)
    results = {}
    for which in (experts.NAME, "eager"):
        block.experts.config._experts_implementation = which
        results[which] = gradients(lambda e, *given: e(*given), block.experts, x_ND, index_Nk, weight_Nk.detach())
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 5e-2}
    for ours, theirs in zip(results[experts.NAME], results["eager"], strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_as_near_to_the_truth_as_the_familys_own(name):
    exact, rough = backbone(name, torch.float64).blocks[-1], backbone(name, torch.bfloat16).blocks[-1]
    for p, q in zip(exact.experts.parameters(), rough.experts.parameters(), strict=True):
        p.data.copy_(q)
    x_ND = torch.randn(200, exact.width, generator=torch.Generator().manual_seed(5)).bfloat16()
    _, weight_Nk, index_Nk = rough.router(x_ND)
    truth = experts.experts_forward(exact.experts, x_ND.double(), index_Nk, weight_Nk.double())
    errors = {}
    for which in (experts.NAME, "eager"):
        rough.experts.config._experts_implementation = which
        errors[which] = float((rough.experts(x_ND, index_Nk, weight_Nk).double() - truth).norm())
    assert errors[experts.NAME] <= 1.1 * errors["eager"]
