"""Experts in place: against a slow loop, and the laws of who is touched."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from flexray.models.graft import graft, select
from flexray.models.in_place import in_place
from flexray.models.seats import Seats
from flexray.parts import Gate, Graft, Lora
from flexray.state import seat, widen
from tests.models.small import (
    FAMILIES,
    Experts,
    backbone,
    block_of,
    flex_parts,
    frozen_weights,
    plain_expert,
    plain_grafted,
    random_state,
)
from tests.models.test_grafted import LAYOUTS, block_shapes
from tests.models.test_routed import FLOAT32_ROUTERS, routing
from tests.models.test_seats import batch, grads, logits, seated, train_step

GRAFTS = [Graft(experts=G, train=train, start="copy", rank=2, alpha=3.0) for G, train in product([1, 2], ["full", "lora"])]
GATE = Gate(mode="in_place")


def plain(block, own, how, y_ND, x_ND, index_Nk, weight_Nk):
    """Token by token: E_i's product leaves, the own expert's comes, where i was picked; two seats."""
    rows = []
    for n, (y_D, x_D) in enumerate(zip(y_ND, x_ND, strict=True)):
        mine = {name: t[n // (len(x_ND) // 2)] for name, t in own.items()}
        instead = dict(zip(mine["index"].tolist(), plain_grafted(block, mine, how, x_D), strict=True))
        for i, w in zip(index_Nk[n].tolist(), weight_Nk[n], strict=True):
            if i in instead:
                y_D = y_D + w * (instead[i] - plain_expert(block.experts, frozen_weights(block.experts, i), x_D))
        rows.append(y_D)
    return torch.stack(rows)


@pytest.mark.parametrize("how", GRAFTS, ids=lambda g: f"{g.train}{g.experts}")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_equals_a_plain_loop_values_and_gradients(layout, how):
    block = block_of(Experts(*layout))
    routed = routing(8, 4, 2, 6)  # nobody picks expert 3
    y_ND = torch.randn(8, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    state = random_state(block_shapes(block, how), 2, 4, seed=2)
    own = {name: t.double().requires_grad_() if t.is_floating_point() else t for name, t in state.items()}
    inputs = [routed[0].requires_grad_(), routed[2].requires_grad_(), *(t for t in own.values() if t.requires_grad)]
    outs = in_place(block, own, how, 2, y_ND, routed), plain(block, own, how, y_ND, *routed)
    assert_close(*outs, rtol=1e-10, atol=1e-10)
    fast, slow = (torch.autograd.grad((y * torch.arange(8)[:, None]).sin().sum(), inputs) for y in outs)
    for one, two in zip(fast, slow, strict=True):
        assert_close(one, two, rtol=1e-9, atol=1e-9)
    picked = torch.stack([torch.isin(routed[1][n], state["index"][n // 4]).any() for n in range(8)])
    assert torch.equal(outs[0][~picked], y_ND[~picked])  # bit for bit
    assert picked.any() and not picked.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_seats_in_one_forward_equal_one_by_one(family):
    model, widths = backbone(family), [5, 7, 3]
    for how in GRAFTS[2:]:
        packed = seated(model, flex_parts(how, GATE, Lora(rank=3)), 3)
        ids, mask = batch(3, 2, widths)
        out = train_step(packed, ids, mask, widths=widths)
        state, got = packed.take(), grads(packed)
        packed.detach()
        single = Seats(model, packed.parts, 1)
        for k, width in enumerate(widths):
            rows = slice(2 * k, 2 * k + 2)
            single.put({name: t[None] for name, t in seat(state, k).items()})
            single.zero_grad()
            alone = train_step(single, ids[rows, :width], mask[rows, :width])
            real = mask[rows, :width].bool()
            near = 1e-5 if family in FLOAT32_ROUTERS else 1e-11
            assert_close(out[rows, :width][real], alone[real], rtol=near, atol=near)
            for name, t in grads(single).items():
                assert_close(got[name][k], t[0], rtol=10 * near, atol=near, msg=name)
        single.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_the_frozen_model_and_has_no_gate(family):
    model = backbone(family, torch.float32)
    ids, mask = batch(2, 2, [6, 4])
    frozen = logits(model, ids, mask)
    for how in GRAFTS:
        seats = Seats(model, flex_parts(how, GATE), 2)
        chosen = select(model, [(ids, mask)], replace(how, select="usage"), seed=0)
        start = graft(model, chosen, how, GATE, seed=0)
        assert {name: tuple(t.shape) for name, t in start.items()} == seats.shapes
        assert not any(name.startswith("gate/") for name in start)
        seats.put(widen(start, 2))
        with seats.using():
            now = logits(model, ids, mask)
        if how.train == "lora":
            assert torch.equal(now, frozen)
        assert_close(now, frozen, rtol=1e-4, atol=1e-5)
        with seats.using(()):
            assert torch.equal(logits(model, ids, mask), frozen)
        train_step(seats, ids, mask)  # a gradient lives at once, for copies in all that is trained
        wanted = [n for n in seats.live() if how.train == "full" or n.endswith("_b")]
        assert {n for n, g in grads(seats).items() if bool(g.any())} == set(wanted)
        seats.detach()


def test_an_expert_that_nobody_picks_changes_nothing():
    model = backbone("mixtral", torch.float32)
    how = Graft(train="full", start="copy")
    ids, mask = batch(1, 1, [1])  # one token picks 2 of 6
    picked: dict[str, list[int]] = {}
    hooks = [
        b.experts.register_forward_hook(lambda m, a, o, n=b.name: picked.update({n: a[1][0].tolist()})) for b in model.blocks
    ]
    frozen = logits(model, ids, mask)
    for hook in hooks:
        hook.remove()
    seats = seated(model, flex_parts(how, GATE), 1)
    seats.put({f"expert/{b}/index": torch.tensor([[next(i for i in range(6) if i not in p)]]) for b, p in picked.items()})
    assert torch.equal(train_step(seats, ids, mask), frozen)
    assert not any(g.any() for g in grads(seats).values())
    seats.detach()
