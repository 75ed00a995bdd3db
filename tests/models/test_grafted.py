"""Single experts, against one token at a time with ordinary matrices."""

from itertools import product

import pytest
import torch

from flexray.models.graft import graft_shapes
from flexray.models.grafted import expert, grafted
from flexray.parts import Graft, Part
from tests.models.small import (
    FAMILIES,
    Experts,
    backbone,
    block_of,
    frozen_weights,
    plain_expert,
    plain_grafted,
    random_state,
)

LAYOUTS = [flags for flags in product([True, False], repeat=5) if flags[0] or flags[3]]  # no gate: nothing to interleave
GRAFTS = [
    Graft(experts=G, train=train, start=start, rank=2)
    for G, train, start in product([1, 2], ["full", "lora"], ["copy", "identity"])
]


def random_x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_pretrained_expert_in_every_layout(layout):
    block, x_ND = block_of(Experts(*layout)), random_x(3, 6)
    for i in range(4):
        slow = torch.stack([plain_expert(block.experts, frozen_weights(block.experts, i), x) for x in x_ND])
        torch.testing.assert_close(expert(block, i, x_ND), slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pretrained_expert_is_what_the_block_computes_with_all_weight_on_it(family):
    model = backbone(family)
    for block in model.blocks:
        x_ND = random_x(4, block.width)
        index, weight = torch.full((4, 1), 1), torch.ones(4, 1, dtype=torch.float64)
        torch.testing.assert_close(expert(block, 1, x_ND), block.experts(x_ND, index, weight), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_grafted_experts_in_every_layout(layout):
    block = block_of(Experts(*layout))
    for graft in GRAFTS:
        shapes = block_shapes(block, graft)
        own = {name: t.double() if t.is_floating_point() else t for name, t in random_state(shapes, 2, 4).items()}
        x_KND = random_x(2, 3, 6)
        fast = grafted(block, own, x_KND, graft)
        for k in range(2):
            mine = {name: t[k] for name, t in own.items()}
            slow_GND = torch.stack([torch.stack(plain_grafted(block, mine, graft, x)) for x in x_KND[k]], 1)
            torch.testing.assert_close(fast[k], slow_GND, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_adapters_at_zero_leave_the_frozen_expert_or_exactly_nothing(layout):
    block, x_KND = block_of(Experts(*layout)), random_x(2, 3, 6)
    for start in ("copy", "identity"):
        graft = Graft(train="lora", start=start, rank=2)
        own = {n: torch.zeros(2, *s, dtype=torch.float64) for n, s in block_shapes(block, graft).items() if n != "index"}
        own["index"] = torch.tensor([[3], [1]])
        out = grafted(block, own, x_KND, graft)
        bare = torch.stack([expert(block, i, x)[None] for i, x in zip((3, 1), x_KND, strict=True)])
        if start == "copy":
            torch.testing.assert_close(out, bare, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(out, torch.zeros_like(bare))


def test_masters_are_cast_to_the_dtype_of_the_tokens():
    block = block_of(Experts(True, False, False, True, False).bfloat16())
    graft = Graft(train="full")
    own = random_state(block_shapes(block, graft), 1, 4)
    assert grafted(block, own, random_x(1, 3, 6).bfloat16(), graft).dtype == torch.bfloat16


def block_shapes(block, graft):
    """Shapes of one client's tensors at one block, by last name."""

    class One:
        blocks = (block,)

    named = graft_shapes(One(), Part("expert", "expert", "private", graft), None)  # type: ignore[arg-type]
    return {name.rpartition("/")[2]: shape for name, shape in named.items()}
