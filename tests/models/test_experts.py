"""The experts' forward against plain loops and against transformers' own, slow and simple, forward."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.moe import use_experts_implementation

from flexray.models import experts, grouping, products, rows
from tests.models.small import FAMILIES, Experts, backbone, frozen_weights, plain_expert

E, D, I, N = 5, 8, 6, 12  # noqa: E741
FLAGS = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm")


def random_experts(seed=0, dtype=torch.float64, trained=False, shape=(E, D, I), **flags) -> nn.Module:
    """Experts with these layout flags, and random weights."""
    n, width, inner = shape

    class Experts(nn.Module):
        def __init__(self, config):
            super().__init__()
            generator = torch.Generator().manual_seed(seed)

            def make(*shape):
                return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))

            def matrix(into, out):
                return make(n, into, out) if flags["is_transposed"] else make(n, out, into)

            name, into = ("gate_up_proj", 2 * inner) if flags["has_gate"] else ("up_proj", inner)
            self.num_experts, self.act_fn = n, nn.SiLU()
            setattr(self, name, matrix(width, into))
            self.down_proj = matrix(inner, width)
            if flags["has_bias"]:
                setattr(self, f"{name}_bias", make(n, into))
                self.down_proj_bias = make(n, width)
            if flags["has_post_expert_norm"]:
                self.post_expert_norm = nn.RMSNorm(width, dtype=dtype)
            self.requires_grad_(trained)

        def forward(self, *_):
            raise AssertionError("not dispatched")

    return use_experts_implementation(Experts, **flags)(None)


def routing(n=N, k=2, dtype=torch.float64, among=E, width=D):
    generator = torch.Generator().manual_seed(3)
    x_ND = torch.randn(n, width, generator=generator, dtype=torch.float64).to(dtype)
    index_Nk = torch.stack([torch.randperm(among, generator=generator)[:k] for _ in range(n)])
    return x_ND, index_Nk, torch.rand(n, k, generator=generator, dtype=torch.float64).to(dtype)


def plain(e, x_ND, index_Nk, weight_Nk):
    """Token by token, expert by expert."""
    name = "gate_up_proj" if e.has_gate else "up_proj"

    def linear(which, i, x):
        weight = getattr(e, which)[i]
        y = (weight.T if e.is_transposed else weight) @ x
        return y + getattr(e, f"{which}_bias")[i] if e.has_bias else y

    total = []
    for x, index, weight in zip(x_ND, index_Nk.tolist(), weight_Nk, strict=True):
        out = torch.zeros_like(x)
        for i, w in zip(index, weight, strict=True):
            if i >= len(e.down_proj):
                continue
            h = linear(name, i, x)
            h = e._apply_gate(h) if e.has_gate else F.silu(h)
            y = linear("down_proj", i, h)
            out = out + w * (e.post_expert_norm(y) if e.has_post_expert_norm else y)
        total.append(out)
    return torch.stack(total)


def gradients(forward, e, x_ND, index_Nk, weight_Nk):
    """The output, and the gradients of an arbitrary loss for tokens, routing weights and what of the experts is trained."""
    x_ND, weight_Nk = x_ND.clone().requires_grad_(), weight_Nk.clone().requires_grad_()
    y_ND = forward(e, x_ND, index_Nk, weight_Nk)
    direction = torch.randn(y_ND.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(y_ND.dtype)
    trained = [p for p in e.parameters() if p.requires_grad]
    return (y_ND.detach(), *torch.autograd.grad((y_ND * direction).sum(), (x_ND, weight_Nk, *trained)))


def check(e, given, near=1e-12, ways=(experts.experts_forward, experts.recomputing_forward)):
    """Every way gives what the plain loop over the same weights gives in float64."""
    truth = gradients(plain, e, *given)
    for way in ways:
        for ours, theirs in zip(gradients(way, e, *given), truth, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=near, atol=near)
    with torch.no_grad():
        torch.testing.assert_close(ways[0](e, *given), truth[0], rtol=near, atol=near)


PLAIN = dict.fromkeys(FLAGS, False) | {"has_gate": True}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)), ids=str)
def test_every_layout_equals_the_plain_loop(flags, trained):
    check(random_experts(trained=trained, **dict(zip(FLAGS, flags, strict=True))), routing())


@pytest.mark.parametrize("layout", [(True, True, False, False, False), (True, True, True, False, True)], ids=str)
def test_a_gate_of_the_familys_own(layout):
    e = Experts(*layout)  # gate and up interleaved
    x_ND, index_Nk, weight_Nk = routing(among=4, width=6)
    expected = [
        sum(w * plain_expert(e, frozen_weights(e, i), x) for i, w in zip(index.tolist(), weight, strict=True))
        for x, index, weight in zip(x_ND, index_Nk, weight_Nk, strict=True)
    ]
    torch.testing.assert_close(experts.experts_forward(e, x_ND, index_Nk, weight_Nk), torch.stack(expected))


@pytest.mark.parametrize("k", [1, 5])
def test_one_expert_and_all_experts(k):
    check(random_experts(**PLAIN), routing(k=k))


@pytest.mark.parametrize("trained", [False, True])
def test_experts_without_tokens_and_tokens_without_experts(trained):
    e = random_experts(trained=trained, **PLAIN)
    x_ND, index_Nk, weight_Nk = routing(among=2)  # experts 2, 3, 4 stay idle
    check(e, (x_ND, index_Nk, weight_Nk))
    index_Nk[::3, 0] = E  # stands for no expert
    check(e, (x_ND, index_Nk, weight_Nk))
    found = gradients(experts.experts_forward, e, x_ND, index_Nk, weight_Nk)
    assert not found[2][::3, 0].any()  # a weight of nobody has no gradient
    assert not any(g[2:].any() for g in found[3:])
    assert not experts.experts_forward(e, x_ND, torch.full_like(index_Nk, E), weight_Nk).any()


@pytest.mark.parametrize("trained", [False, True])
def test_no_tokens(trained):
    e, (x_ND, index_Nk, weight_Nk) = random_experts(trained=trained, **PLAIN), routing()
    nothing, grad_x, grad_weight, *grads = gradients(experts.experts_forward, e, x_ND[:0], index_Nk[:0], weight_Nk[:0])
    assert nothing.shape == grad_x.shape == (0, D) and grad_weight.shape == (0, 2)
    assert [g.shape for g in grads] == [p.shape for p in e.parameters() if p.requires_grad]
    assert not any(g.any() for g in grads)


KERNELS = {
    "grouped": (torch.float32, {}),
    "loop of MKL": (torch.float32, {"groupable": False}),
    "loop of oneDNN": (torch.float32, {"groupable": False, "quick": True}),
    "even": (torch.bfloat16, {"FEW": 0, "CALL": 1e9}),
    "loop of heights": (torch.bfloat16, {"BATCH": 1e9}),
    "even, and the rest in a loop": (torch.bfloat16, {"FEW": 0, "BATCH": 0.0, "CALL": 0.0, "LOAD": 0, "EVEN_B": "8"}),
}


@pytest.fixture
def kernel(request, monkeypatch):
    """Makes the rule choose as asked, in pieces of at most 16 rows; gives the dtype."""
    dtype, wanted = KERNELS[request.param]
    monkeypatch.setattr(grouping, "PIECE", 16)
    if "groupable" in wanted:
        monkeypatch.setattr(rows, "groupable", lambda *_: False)
    if wanted.get("quick"):
        for module in (grouping, products):
            monkeypatch.setattr(module, "onednn_is_quicker", lambda: True)
            monkeypatch.setattr(module, "WORTH", 1)
        monkeypatch.setattr(products, "DEEP", 1)
    for name in wanted.keys() & {"FEW", "CALL", "BATCH", "LOAD"}:
        monkeypatch.setattr(grouping, name, wanted[name])
    if "EVEN_B" in wanted:
        monkeypatch.setattr(grouping, "EVEN_B", grouping.EVEN_B[1:2])
    return dtype


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("flags", [PLAIN, PLAIN | {"is_transposed": True, "has_bias": True}], ids=["plain", "other"])
@pytest.mark.parametrize("kernel", KERNELS, indirect=True)
def test_every_kernel_is_near_the_plain_loop_in_float64(kernel, flags, trained):
    shape = (7, 16, 8)
    e = random_experts(dtype=kernel, trained=trained, shape=shape, **flags)
    exact = random_experts(dtype=torch.float64, trained=trained, shape=shape, **flags)
    for p, q in zip(exact.parameters(), e.parameters(), strict=True):
        p.data.copy_(q)
    x_ND, index_Nk, weight_Nk = routing(n=70, k=3, dtype=kernel, among=5, width=16)
    index_Nk[:9, 1] = 7
    near = 2e-6 if kernel == torch.float32 else 1.5e-2
    for way in (experts.experts_forward, experts.recomputing_forward):
        truth = gradients(plain, exact, x_ND.double(), index_Nk, weight_Nk.double())
        for ours, theirs in zip(gradients(way, e, x_ND, index_Nk, weight_Nk), truth, strict=True):
            assert ours.dtype == kernel
            assert (ours.double() - theirs).norm() <= near * theirs.norm()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("flags", [PLAIN, PLAIN | {"has_post_expert_norm": True}], ids=["fused", "steps"])
def test_the_way_of_gpus_which_asks_the_device_for_no_number(flags, trained, monkeypatch):
    monkeypatch.setattr(experts, "sorted_rows", lambda index_Nk, count, *_: rows._on_device(index_Nk, count))
    e = random_experts(dtype=torch.float32, trained=trained, shape=(7, 16, 8), **flags)
    given = routing(n=70, k=3, dtype=torch.float32, among=5, width=16)
    given[1][:9, 1] = 7
    ways = (experts.experts_forward, experts.recomputing_forward)
    truth = gradients(plain, e, *given)
    with monkeypatch.context() as forbidden:
        forbidden.setattr(Tensor, "tolist", None)
        forbidden.setattr(Tensor, "item", None)
        found = [gradients(way, e, *given) for way in ways]
    for one in found:
        for ours, theirs in zip(one, truth, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_gradcheck(trained, recompute):
    e = random_experts(trained=trained, **PLAIN)
    x_ND, index_Nk, weight_Nk = routing(n=4)
    weights = [p.detach().clone().requires_grad_(trained) for p in (e.gate_up_proj, e.down_proj)]
    del e.gate_up_proj, e.down_proj

    def run(x_ND, weight_Nk, *weights):
        e.gate_up_proj, e.down_proj = weights
        return experts.experts_forward(e, x_ND, index_Nk, weight_Nk, recompute)

    assert torch.autograd.gradcheck(run, (x_ND.requires_grad_(), weight_Nk.requires_grad_(), *weights), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_frozen_gets_no_gradient(dtype):
    e, (x_ND, index_Nk, weight_Nk) = random_experts(dtype=dtype, **PLAIN), routing(dtype=dtype)
    e.down_proj.requires_grad_(True)
    experts.experts_forward(e, x_ND, index_Nk, weight_Nk).sum().backward()
    assert e.down_proj.grad is not None and e.gate_up_proj.grad is None
    assert x_ND.grad is None and weight_Nk.grad is None


def kept_bytes(e, forward, given) -> int:
    """What autograd holds for backward, without the experts' own weights."""
    own = {p.data_ptr() for p in e.parameters()}
    held: dict[int, int] = {}

    def pack(t):
        if t.data_ptr() not in own:
            held[t.data_ptr()] = t.nbytes
        return t

    x_ND, index_Nk, weight_Nk = given
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward(e, x_ND.clone().requires_grad_(), index_Nk, weight_Nk)
    return sum(held.values())


def test_bytes_kept_for_backward():
    e, given = random_experts(**PLAIN), routing()
    # float64: 24 routing weights, and 24 rows of 2·6 before the activation
    assert kept_bytes(e, experts.experts_forward, given) == 8 * (24 + 24 * 12)
    # the same weights, and 12 tokens of 8
    assert kept_bytes(e, experts.recomputing_forward, given) == 8 * (24 + 12 * 8)
    eager = kept_bytes(e, plain, given)
    assert eager > 2 * kept_bytes(e, experts.experts_forward, given)


def test_recompute_keeps_less_where_experts_have_norms_too():
    e, given = random_experts(**PLAIN | {"has_post_expert_norm": True}), routing()
    assert kept_bytes(e, experts.recomputing_forward, given) < kept_bytes(e, experts.experts_forward, given) / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_the_same_again_and_a_token_does_not_notice_the_others(dtype):
    e = random_experts(dtype=dtype, trained=True, **PLAIN)
    x_ND, index_Nk, weight_Nk = routing(n=60, dtype=dtype)
    one, two = (gradients(experts.experts_forward, e, x_ND, index_Nk, weight_Nk) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    alone = experts.experts_forward(e, x_ND[7:8], index_Nk[7:8], weight_Nk[7:8])
    near = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(one[0][7:8], alone.detach(), rtol=near, atol=near)


def test_both_names_are_known_to_transformers():
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    experts.register()
    assert ALL_EXPERTS_FUNCTIONS[experts.NAME] is experts.experts_forward
    assert ALL_EXPERTS_FUNCTIONS[experts.RECOMPUTE] is experts.recomputing_forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_familys_own_forward(name, dtype):
    block = backbone(name, dtype).blocks[-1]
    experts.register()
    generator = torch.Generator().manual_seed(5)
    x_ND = torch.randn(40, block.width, generator=generator).to(dtype)
    _, weight_Nk, index_Nk = block.router(x_ND)
    results = {}
    for which in (experts.NAME, experts.RECOMPUTE, "eager"):
        block.experts.config._experts_implementation = which
        results[which] = gradients(lambda e, *given: e(*given), block.experts, x_ND, index_Nk, weight_Nk.detach())
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 5e-2}
    for which in (experts.NAME, experts.RECOMPUTE):
        for ours, theirs in zip(results[which], results["eager"], strict=True):
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
