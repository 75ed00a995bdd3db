"""Adapters on routed experts: against a slow double loop, K seats against one by one, and the laws of what is off and zero."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flexray.models import experts, rows
from flexray.models.grafted import low_rank_shapes
from flexray.models.routed import RoutedBlock, adapted_experts, routed_shapes
from flexray.models.seats import Seats, fresh_part
from flexray.models.use import Use
from flexray.parts import Gate, Graft, Lora, Part, Routed
from flexray.state import seat, widen
from tests.models.small import (
    FAMILIES,
    Experts,
    backbone,
    block_of,
    flex_parts,
    frozen_weights,
    plain_expert,
    random_state,
)
from tests.models.test_seats import batch, generators, grads, logits, seated, train_step

ROUTED = Routed(rank=2, alpha=3.0)
PARTS = (Part("routed", "routed", "shared", ROUTED),)
LAYOUTS = [flags for flags in product([True, False], repeat=5) if flags[0] or flags[3]]  # no gate: nothing to interleave
FLOAT32_ROUTERS = ("deepseek_v2", "deepseek_v3")


def plain(e, own: dict[str, Tensor], x_ND: Tensor, index_Nk: Tensor, weight_Nk: Tensor, seats: int) -> Tensor:
    """Token by token, choice by choice, with weights merged: W_e + scale·B·A of the token's seat."""
    scale, names, rows = ROUTED.alpha / ROUTED.rank, ("gate", "up", "down") if e.has_gate else ("up", "down"), []
    for n, x_D in enumerate(x_ND):
        k, total = n // (len(x_ND) // seats), torch.zeros_like(x_D)
        for i, w in zip(index_Nk[n].tolist(), weight_Nk[n], strict=True):
            if i < len(e.down_proj):
                frozen = frozen_weights(e, i)
                low = {name: scale * own[f"{name}_b"][k, i] @ own[f"{name}_a"][k, i] for name in names}
                total = total + w * plain_expert(e, frozen | {name: frozen[name] + low[name] for name in names}, x_D)
        rows.append(total)
    return torch.stack(rows)


def routing(n: int, E: int, k: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, indices, weights; the last expert is never picked, and now and then none is (E)."""
    generator = torch.Generator().manual_seed(3)
    x_ND = torch.randn(n, width, generator=generator, dtype=torch.float64)
    index_Nk = torch.stack([torch.randperm(E - 1, generator=generator)[:k] for _ in range(n)])
    index_Nk[1::4, 0] = E
    return x_ND, index_Nk, torch.rand(n, k, generator=generator, dtype=torch.float64)


def compared(e, run, own: dict[str, Tensor]) -> list[Tensor]:
    """What `run` gives, and its gradients for tokens, weights and adapters."""
    x_ND, index_Nk, weight_Nk = routing(8, len(e.down_proj), 2, e.down_proj.shape[2 if e.is_transposed else 1])
    inputs = [x_ND, weight_Nk, *own.values()]
    for t in inputs:
        t.requires_grad_()
    y_ND = run(x_ND, index_Nk, weight_Nk)
    return [y_ND.detach(), *torch.autograd.grad((y_ND * torch.arange(8)[:, None]).sin().sum(), inputs)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_equals_the_slow_double_loop_values_and_gradients(layout):
    block = block_of(Experts(*layout))
    state = random_state(low_rank_shapes(block, 4, ROUTED.rank), 2, 4)
    own = {name: t.double() for name, t in state.items()}
    use = Use(2, parts=frozenset({"routed"}))
    fast = compared(block.experts, lambda *r: adapted_experts(RoutedBlock(block, {"routed": (ROUTED, own)}), use, *r), own)
    slow = compared(block.experts, lambda *r: plain(block.experts, own, *r, seats=2), own)
    for one, two in zip(fast, slow, strict=True):
        assert_close(one, two, rtol=1e-10, atol=1e-10)
    assert all(not g[:, 3].any() for g in fast[3:])  # nobody picks the last expert
    assert all(g[:, :3].flatten(1).any(1).all() for g in fast[3:])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_the_slow_double_loop(family):
    model = backbone(family)
    block, seats = model.blocks[-1], seated(model, PARTS, 2)
    own = {n.rpartition("/")[2]: t.double() for n, t in seats.take().items() if n.startswith(f"routed/{block.name}/")}
    given = routing(8, block.n_experts, 2, block.width)
    with seats.using():
        assert_close(block.experts(*given), plain(block.experts, own, *given, seats=2), rtol=1e-6, atol=1e-6)
    seats.detach()


def test_the_way_of_gpus_which_asks_the_device_for_no_number(monkeypatch):
    model, four = backbone("qwen2_moe", torch.float32), (Part("routed", "routed", "shared", Routed(rank=4)),)
    block, seats = model.blocks[-1], seated(model, four, 2)
    x_ND, index_Nk, weight_Nk = routing(24, block.n_experts, 2, block.width)
    given = x_ND.float().requires_grad_(), index_Nk, weight_Nk.float().requires_grad_()

    def run():
        seats.zero_grad()
        for t in given[::2]:
            t.grad = None
        with seats.using(train=["routed"]):
            y_ND = block.experts(*given)
            y_ND.sin().sum().backward()
        return [y_ND.detach(), given[0].grad, given[2].grad, *grads(seats).values()]

    plainly = run()
    monkeypatch.setattr(experts, "sorted_rows", lambda index_Nk, count, *_: rows._on_device(index_Nk, count))
    with monkeypatch.context() as forbidden:
        forbidden.setattr(Tensor, "tolist", None)
        forbidden.setattr(Tensor, "item", None)
        on_device = run()
    for one, two in zip(on_device, plainly, strict=True):
        assert_close(one, two, rtol=1e-4, atol=1e-5)
    seats.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_seats_in_one_forward_equal_one_by_one(family):
    model, widths = backbone(family), [5, 7, 3]
    two = Part("mine", "routed", "private", Routed(rank=3, dropout=0.3))
    parts = (*PARTS, two, *flex_parts(Graft(), Gate(mode="mix"), Lora(rank=3)))
    packed = seated(model, parts, 3)
    ids, mask = batch(3, 2, widths)
    out = train_step(packed, ids, mask, widths=widths, dropout=generators(0, 1, 2))
    state, got = packed.take(), grads(packed)
    packed.detach()
    single = Seats(model, parts, 1)
    for k, width in enumerate(widths):
        rows = slice(2 * k, 2 * k + 2)
        single.put({name: t[None] for name, t in seat(state, k).items()})
        single.zero_grad()
        alone = train_step(single, ids[rows, :width], mask[rows, :width], dropout=generators(k))
        real = mask[rows, :width].bool()
        near = 1e-5 if family in FLOAT32_ROUTERS else 1e-11
        assert_close(out[rows, :width][real], alone[real], rtol=near, atol=near)
        for name, t in grads(single).items():
            assert_close(got[name][k], t[0], rtol=10 * near, atol=near, msg=name)
    single.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_off_or_zero_leaves_the_frozen_model_bit_for_bit(family):
    model = backbone(family, torch.float32)
    before = {name: t.clone() for name, t in model.model.state_dict().items()}
    ids, mask = batch(2, 2, [6, 4])
    frozen = logits(model, ids, mask)
    seats = Seats(model, PARTS, 2)
    start = fresh_part(PARTS[0], PARTS, model, seed=0)
    assert {name: tuple(t.shape) for name, t in start.items()} == routed_shapes(PARTS[0], model) == seats.shapes
    assert all(t.any() == name.endswith("_a") for name, t in start.items())
    seats.put(widen(start, 2))
    with seats.using():
        assert torch.equal(logits(model, ids, mask), frozen)
    train_step(seats, ids, mask)
    weights, gradients = seats.flat("routed")
    weights.sub_(gradients)
    with seats.using():
        assert not torch.allclose(logits(model, ids, mask), frozen)
    with seats.using(()):
        assert torch.equal(logits(model, ids, mask), frozen)
    seats.detach()
    assert torch.equal(logits(model, ids, mask), frozen)
    assert all(torch.equal(t, before[name]) for name, t in model.model.state_dict().items())


def test_parts_on_the_same_experts_add_up():
    model = backbone("qwen2_moe")
    twice = (*PARTS, Part("again", "routed", "private", ROUTED))
    wide = (Part("routed", "routed", "shared", Routed(rank=4, alpha=6.0)),)  # the same scale, A and B side by side
    seats = seated(model, twice, 1)
    ids, mask = batch(1, 2, [5])
    with seats.using():
        both = logits(model, ids, mask)
    state = seats.take()
    seats.detach()
    one = Seats(model, wide, 1)
    one.put({n: torch.cat([state[n], state[n.replace("routed", "again", 1)]], -2 if n[-1] == "a" else -1) for n in one.shapes})
    with one.using():
        assert_close(logits(model, ids, mask), both, rtol=1e-10, atol=1e-10)


def test_seats_of_one_model_may_be_taken_off_in_any_order():
    model = backbone("mixtral")
    ids, mask = batch(1, 1, [4])
    frozen = logits(model, ids, mask)
    first, second = seated(model, PARTS, 1, seed=1), seated(model, PARTS, 1, seed=2)
    outs = []
    for seats in (first, second):
        with seats.using():
            outs.append(logits(model, ids, mask))
    first.detach()
    with second.using():
        assert torch.equal(logits(model, ids, mask), outs[1])
    with first.using():
        assert torch.equal(logits(model, ids, mask), frozen)
    second.detach()
    assert all("forward" not in vars(b.experts) and "stand_ins" not in vars(b.experts) for b in model.blocks)
    assert not torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_keeps_its_dtype_and_is_near_the_truth(family):
    parts = (*PARTS, *flex_parts(Graft(start="copy"), Gate(mode="in_place")))
    ids, mask = batch(2, 2, [6, 4])
    outs = []
    for dtype in (torch.bfloat16, torch.float32):
        model = backbone(family, dtype)
        seats = seated(model, parts, 2)
        block = model.blocks[0]
        x_ND = torch.randn(8, block.width, generator=torch.Generator().manual_seed(6)).bfloat16().to(dtype)
        _, weight_Nk, index_Nk = backbone(family, torch.float32).blocks[0].router(x_ND.float())
        with seats.using(train=["routed", "expert"]):
            y_ND = block.experts(x_ND, index_Nk, weight_Nk)
            y_ND.float().square().sum().backward()
        assert y_ND.dtype == dtype and all(g.dtype == torch.float32 for g in grads(seats).values())
        outs.append(y_ND.detach().float())
        train_step(seats, ids, mask)
        seats.detach()
    assert (outs[0] - outs[1]).norm() < 0.05 * outs[1].norm()
