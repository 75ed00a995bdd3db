"""Packed rows against the same rows one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexray.models import packing
from flexray.models.backbone import Backbone
from flexray.models.seats import Seats
from flexray.parts import Gate, Graft, Lora
from flexray.sim.local.lm import Row, collate, pack, respond
from tests.models.small import FAMILIES, VOCABULARY, backbone, flex_parts, random_state

PARTS = flex_parts(Graft(rank=2), Gate(), Lora(rank=2))


def rows(lengths: list[list[tuple[int, int]]]) -> list[list[Row]]:
    """Per seat random rows of (tokens, start of the response)."""
    rng = np.random.default_rng(0)
    return [[(rng.integers(0, VOCABULARY, n).astype(np.int32), start) for n, start in own] for own in lengths]


RAGGED = rows([[(9, 3), (4, 1), (6, 5)], [(2, 1), (11, 4), (3, 2)]])


def packing_backbone(name: str, **config) -> Backbone:
    model = backbone(name)
    for key, value in config.items():
        setattr(model.model.config, key, value)
        for module in model.model.modules():
            # a layer of gpt_oss without a window has none; qwen3_moe has it in all layers or in none
            if hasattr(module, key) and (name == "qwen3_moe" or getattr(module, key) is not None):
                setattr(module, key, value)
    assert packing.enable(model.model)
    return replace(model, packs=True)


def test_maps_of_two_seats_by_hand():
    # seat 0: rows of 2 and 1 tokens, seat 1: of 1 and 1, so 3 tokens a seat and one of padding, at the flat place 5
    starts, wide = packing.lay([[2, 1], [1, 1]])
    assert starts.tolist() == [0, 2, 3, 4] and wide == 3
    found = packing.rows_of(np.array([2, 1, 1, 1]), starts, 6, torch.from_numpy)
    assert found.longest == 2
    assert found.out.tolist() == [0, 1, 2, 0, 3, 0, 4, 0]  # padded rows [4, 2]: 0 where there is no token
    assert found.real_out.flatten().tolist() == [1, 1, 1, 0, 1, 0, 1, 0]
    assert found.back.tolist() == [0, 1, 2, 4, 6, 0]  # where each flat token went
    assert found.real_back.flatten().tolist() == [1, 1, 1, 1, 1, 0]


def test_one_row_alone_needs_no_masks():
    starts, wide = packing.lay([[3]])
    found = packing.rows_of(np.array([3]), starts, wide, torch.from_numpy)
    assert found.real_out is None and found.real_back is None


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_are_the_rows_one_by_one(family):
    model = packing_backbone(family)
    assert packing.works(model.model)
    packed = respond(model, pack(RAGGED))
    for n, row in enumerate(row for own in RAGGED for row in own):
        alone = respond(model, collate([[row]]))
        count = int(alone.counted.sum())
        torch.testing.assert_close(packed.nll[n, :count], alone.nll[0, :count], rtol=1e-5, atol=1e-5)
        assert not packed.nll[n, count:].any() and int(packed.counted[n].sum()) == count
        assert torch.equal(packed.hit[n, :count], alone.hit[0, :count])


@pytest.mark.parametrize("family", FAMILIES)
def test_seats_learn_from_packed_rows_what_they_learn_from_padded_ones(family):
    model = packing_backbone(family)
    seats = Seats(model, PARTS, 2)
    seats.put(random_state(seats.shapes, 2, model.blocks[0].n_experts))
    found = []
    for batch in (pack(RAGGED), collate(RAGGED)):
        seats.zero_grad()
        with seats.using(train=("lora", "expert", "gate"), widths=batch.widths):
            respond(model, batch).nll.sum().backward()
        found.append({name: t.grad.clone() for name, t in seats.live().items()})
    for name, grad in found[1].items():
        torch.testing.assert_close(found[0][name], grad, rtol=1e-4, atol=1e-5 * grad.abs().max().item(), msg=name)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "qwen3_moe"])
def test_a_sliding_window_moves_along_each_row(family):
    whole, model = packing_backbone(family), packing_backbone(family, sliding_window=3)
    row = RAGGED[0][0]
    alone, packed = respond(model, collate([[row]])), respond(model, pack(RAGGED))
    count = int(alone.counted.sum())
    torch.testing.assert_close(packed.nll[0, :count], alone.nll[0, :count], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(alone.nll, respond(whole, collate([[row]])).nll)  # the window does hide something


def test_a_model_that_mixes_tokens_elsewhere_is_found_out():
    model = backbone("qwen2_moe")
    assert packing.works(model.model)
    model.blocks[0].module.register_forward_pre_hook(lambda _, args: (args[0].cumsum(1), *args[1:]))
    assert not packing.works(model.model)


def test_layers_of_unknown_kinds_are_not_tried():
    model = backbone("qwen2_moe")
    model.model.config.layer_types = ["linear_attention", "full_attention"]
    assert not packing.works(model.model)


def test_unpacked_forwards_go_through_the_same_door_unchanged():
    before, model = backbone("olmoe"), packing_backbone("olmoe")
    ids = torch.arange(14).view(2, 7)
    mask = torch.ones(2, 7).long()
    mask[0, :3] = 0
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask}):
            assert torch.equal(before.model(ids, **options).logits, model.model(ids, **options).logits)


def test_the_gradient_of_a_gather_is_a_gather():
    starts, _ = packing.lay([[2, 1], [1, 1]])
    found = packing.rows_of(np.array([2, 1, 1, 1]), starts, 6, torch.from_numpy)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    there = packing._Gather.apply
    # what is not real may hold anything: only real places are looked at
    out = torch.autograd.gradcheck(lambda x: there(x, found.out, found.back, found.real_back) * found.real_out, (x,))
    back = torch.autograd.gradcheck(lambda y: there(y, found.back, found.out, found.real_out) * found.real_back, (y,))
    assert out and back
