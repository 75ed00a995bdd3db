"""Adapters of every shape at single layers: by hand, whole against divided, dense against low rank, and how they start."""

import pytest
import torch
from torch.testing import assert_close

from flexray.models.adapters import adapted
from flexray.models.seats import Seats, fresh_part, shapes_of
from flexray.parts import Lora, Mixer, Part
from tests.models.small import backbone, random_state

LORA = Lora(rank=2, alpha=3.0, targets=("q", "k", "v", "o"))
HALVES = (Part("up", "lora_a", "shared", LORA), Part("down", "lora_b", "private", LORA))
WHOLE = (Part("lora", "lora", "shared", LORA),)


def seated(model, parts, K=2, seed=1) -> Seats:
    seats = Seats(model, parts, K)
    seats.put(random_state(seats.shapes, K, 6, seed))
    return seats


def layer(model):
    """One adapted linear layer with its path and inputs for two seats of three tokens, in two rows each."""
    path, linear = next(iter(model.family.adapter_sites(model.model, LORA.targets).items()))
    x = torch.randn(4, 3, linear.in_features, generator=torch.Generator().manual_seed(4), dtype=model.dtype)
    return path, linear, x


def test_an_adapter_by_hand():
    # A = [1 2], B = [3, -1]ᵀ, x = (1, 1): A·x = 3, B·(A·x) = (9, -3); times the scale 2: (18, -6); the output is (1, 1).
    x, a, b = torch.ones(1, 1, 2), torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0], [-1.0]]])
    assert adapted(torch.ones(1, 1, 2), x, a, b, 2.0).tolist() == [[[19.0, -5.0]]]
    # With a share of 1/3: (18, -6) / 3 = (6, -2).
    assert_close(adapted(torch.ones(1, 1, 2), x, a, b, 2.0, torch.full((1, 1, 1), 1 / 3)), torch.tensor([[[7.0, -1.0]]]))


def test_two_halves_are_one_adapter_and_take_effect_together():
    model = backbone("qwen2_moe")
    path, linear, x = layer(model)
    seats = seated(model, HALVES)
    frozen = linear(x)
    for some in ((), ("up",), ("down",)):
        with seats.using(some):
            assert torch.equal(linear(x), frozen)
    with seats.using(train=["down"]):
        divided = linear(x)
        divided.square().sum().backward()
    state, grads = seats.take(), {n: t.grad for n, t in seats.live().items()}
    seats.detach()
    one = Seats(model, WHOLE, 2)
    one.put({f"lora/{n.split('/', 1)[1]}": t for n, t in state.items()})
    with one.using(train=["lora"]):
        whole = linear(x)
        whole.square().sum().backward()
    assert torch.equal(divided, whole)
    assert torch.equal(grads[f"down/{path}/b"], one.live()[f"lora/{path}/b"].grad)
    assert not grads[f"up/{path}/a"].any()  # the other half is not trained


def test_a_divided_adapter_drops_as_a_whole_one_does():
    model, config = backbone("qwen2_moe"), Lora(rank=2, dropout=0.5, targets=("q",))
    outs = []
    for parts in ((Part("lora", "lora", "shared", config),), tuple(Part(p.name, p.kind, p.where, config) for p in HALVES)):
        seats = Seats(model, parts, 2)
        _, linear, x = layer(model)
        seats.put({n: t for p in parts for n, t in filled(seats, p).items()})
        with seats.using(train=[parts[-1].name], dropout=[torch.Generator().manual_seed(s) for s in (0, 1)]):
            outs.append(linear(x).detach())
        seats.detach()
    assert torch.equal(*outs) and not torch.equal(outs[0], linear(x))


def filled(seats, part):
    return {n: torch.full((2, *s), 0.5) for n, s in seats.shapes.items() if n.startswith(f"{part.name}/")}


def test_a_dense_delta_is_its_weight_added():
    model = backbone("qwen2_moe")
    path, linear, x = layer(model)
    seats = seated(model, (Part("folded", "delta", "shared", LORA), *WHOLE))
    assert seats.shapes[f"folded/{path}/w"] == tuple(linear.weight.shape)
    state, frozen = seats.take(), linear(x)
    with seats.using(["folded"], train=["folded"]):
        out = linear(x)
        out.sum().backward()
    for row in range(4):
        delta = state[f"folded/{path}/w"][row // 2].double()
        assert_close(out[row].detach(), frozen[row] + x[row] @ delta.T)
    # d(Σ out)/dΔW = a row of ones by the sum of the seat's inputs
    assert_close(
        seats.live()[f"folded/{path}/w"].grad[0].double(), x[:2].sum((0, 1)).expand_as(linear.weight), rtol=1e-5, atol=1e-5
    )
    with seats.using():
        both = linear(x)
    with seats.using(["lora"]):
        assert_close(both - out.detach(), linear(x) - frozen)
    seats.put({f"folded/{path}/w": torch.zeros(2, *linear.weight.shape)})
    with seats.using(["folded"]):
        assert torch.equal(linear(x), frozen)
    seats.detach()


def test_parts_that_are_never_trained_have_no_gradients():
    model = backbone("qwen2_moe")
    _, linear, x = layer(model)
    seats = seated(model, (Part("folded", "delta", "frozen", LORA), *WHOLE))
    for _ in range(2):
        seats.zero_grad()
        with seats.using(train=["lora"]):
            linear(x).sum().backward()
    assert not seats.flat("folded")[1].any() and seats.flat("lora")[1].any()
    seats.zero_grad()
    assert not seats.flat("lora")[1].any()
    seats.detach()


EVERY = (*HALVES, *WHOLE, Part("folded", "delta", "frozen", LORA), Part("mix", "mixer", "private", Mixer(("lora", "up"))))


@pytest.mark.parametrize("part", EVERY, ids=lambda p: p.kind)
def test_what_is_fresh_has_the_shapes_of_the_part_and_only_an_a_is_random(part):
    model = backbone("mixtral")
    fresh = fresh_part(part, EVERY, model, seed=0)
    shapes = shapes_of(model, EVERY)
    assert {n: tuple(t.shape) for n, t in fresh.items()} == {n: s for n, s in shapes.items() if n.startswith(f"{part.name}/")}
    assert all(bool(t.any()) == n.endswith("/a") for n, t in fresh.items())
    again, other = (fresh_part(part, EVERY, model, seed) for seed in (0, 1))
    assert all(torch.equal(t, again[n]) for n, t in fresh.items())
    assert all(torch.equal(t, other[n]) == (not n.endswith("/a")) for n, t in fresh.items())
