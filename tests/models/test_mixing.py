"""Mixers: shares by hand, and adapted layers against a plain token-by-token reference."""

from itertools import product

import torch
from torch.testing import assert_close

from flexray.models.mixing import token_shares
from flexray.models.seats import Seats, fresh_part
from flexray.parts import Lora, Mixer, Part
from flexray.state import widen
from tests.models.small import backbone, random_state

LORA, WIDER = Lora(rank=2, alpha=3.0), Lora(rank=3, alpha=6.0)
PARTS = (
    Part("own", "lora", "private", LORA),
    Part("a", "lora_a", "shared", WIDER),
    Part("b", "lora_b", "shared", WIDER),
    Part("rest", "lora", "shared", LORA),
    Part("plain", "lora", "shared", LORA),
    Part("mix", "mixer", "private", Mixer(("own", "b", "rest"))),
)


def test_shares_by_hand():
    # W·x + b = (ln 3 · 1 + 0, 0 · 1 + 0) = (ln 3, 0): softmax 3/4, 1/4. For x = 0: (0, 0), halves. With b = (0, ln 9): 3/12, 9/12.
    ln3 = torch.tensor(3.0).log()
    weight, x = torch.stack([ln3, 0 * ln3]).view(1, 2, 1), torch.tensor([[[1.0], [0.0]]])
    assert_close(token_shares(weight, torch.zeros(1, 2), x), torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]))
    assert_close(token_shares(weight, torch.stack([0 * ln3, 2 * ln3])[None], x)[:, 0], torch.tensor([[0.25, 0.75]]))


def plain(linear, path, state, k, x_X):
    """One token of one client: each adapter's own delta times its share, by loops."""

    def delta(a, b, lora):
        return lora.alpha / lora.rank * state[f"{b}/{path}/b"][k] @ (state[f"{a}/{path}/a"][k] @ x_X)

    scores = state[f"mix/{path}/weight"][k] @ x_X + state[f"mix/{path}/bias"][k]
    shares = [torch.exp(s) / sum(torch.exp(t) for t in scores) for s in scores]
    weighed = zip(shares, [delta("own", "own", LORA), delta("a", "b", WIDER), delta("rest", "rest", LORA)], strict=True)
    return linear.weight @ x_X + (linear.bias if linear.bias is not None else 0) + delta("plain", "plain", LORA) + sum(
        share * own for share, own in weighed
    )  # fmt: skip


def test_mixed_layers_equal_their_plain_reference_values_and_gradients():
    model = backbone("qwen2_moe")
    seats = Seats(model, PARTS, 2)
    seats.put(random_state(seats.shapes, 2, 6))
    for path, linear in model.family.adapter_sites(model.model, LORA.targets).items():
        x = torch.randn(4, 3, linear.in_features, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        weights = torch.randn(4, 3, linear.out_features, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        seats.zero_grad()
        with seats.using(train=[p.name for p in PARTS]):
            out = linear(x)
            (out * weights).sum().backward()
        state = {n: t.double().requires_grad_() for n, t in seats.take().items() if path in n}
        for row, token in product(range(4), range(3)):
            slow = plain(linear, path, state, row // 2, x[row, token])
            assert_close(out[row, token].detach(), slow.detach())
            (slow * weights[row, token]).sum().backward()
        live = seats.live()
        for name, t in state.items():
            assert_close(live[name].grad.double(), t.grad, rtol=1e-4, atol=1e-5, msg=name)
    seats.detach()


def test_a_fresh_mixer_gives_equal_shares_and_an_idle_one_none():
    model = backbone("qwen2_moe")
    linear = next(iter(model.family.adapter_sites(model.model, LORA.targets).values()))
    seats = Seats(model, PARTS, 1)
    seats.put(random_state(seats.shapes, 1, 6) | widen(fresh_part(PARTS[-1], PARTS, model, 0), 1))
    x = torch.randn(2, 3, linear.in_features, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    frozen, outs = linear(x), {}
    for names in (("own",), ("own", "mix"), ("rest", "mix"), ("own", "rest", "mix"), ("mix",)):
        with seats.using(names):
            outs[names] = linear(x) - frozen
    assert_close(outs["own", "mix"], outs["own",] / 3)  # a third each, whether or not the others are in use
    assert_close(outs["own", "rest", "mix"], outs["own", "mix"] + outs["rest", "mix"])
    assert not outs["mix",].any()
    seats.detach()
