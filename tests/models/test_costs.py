"""Counted costs: against the figures of Qwen1.5-MoE-A2.7B, and against torch's own count of the products that are made."""

import json

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from flexray.models.backbone import Backbone, skeleton
from flexray.models.costs import added_flops, expert_numbers, frozen_flops, numbers, picked
from flexray.models.latency import latency
from flexray.models.options import Model
from flexray.parts import Gate, Graft, Lora, Part, Routed
from tests.models.small import FAMILIES, backbone, flex_parts
from tests.models.test_seats import batch, seated

QWEN = {
    "model_type": "qwen2_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Backbone:
    """Qwen1.5-MoE-A2.7B without its weights."""
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "config.json").write_text(json.dumps(QWEN))
    return skeleton(Model(path=str(folder), dtype="bfloat16"))


def test_what_would_travel_is_as_in_the_record(qwen):
    found = numbers(qwen, Lora(rank=32))
    # q, k, v: 3 · 32 · (2048 + 2048) in 24 layers. Experts: 3 · 32 · (2048 + 1408), 60 in 24 layers.
    assert found.lora == 3 * 32 * 4096 * 24 == 9_437_184
    assert found.lora_experts - found.lora == 3 * 32 * 3456 * 60 * 24 == 477_757_440
    # An expert is 3 · 2048 · 1408.
    assert expert_numbers(qwen.blocks[0]) == 8_650_752
    assert found.full - found.non_routed == 8_650_752 * 60 * 24
    megabytes = [2 * n / 1e6 for n in (found.lora, found.lora_experts, found.non_routed, found.full)]  # bfloat16
    assert_close(megabytes, [18.9, 974.0, 3.7e3, 28.6e3], rtol=0.005, atol=0)
    assert sum(p.numel() for p in qwen.model.parameters()) == found.full


def test_one_more_expert_costs_under_nine_percent(qwen):
    frozen = frozen_flops(qwen)
    # Per layer: q, k, v, o, the shared expert with its gate, the router, four experts; and the head.
    layer = 4 * 2048**2 + 3 * 2048 * 5632 + 2048 + 60 * 2048 + 4 * 8_650_752
    assert frozen.total == 2 * (24 * layer + 151936 * 2048)
    added = added_flops(qwen, flex_parts(Graft(), Gate()))
    assert added == 24 * 2 * (8_650_752 + 2048)  # the expert, and the gate's vector
    assert round(100 * added / frozen.total, 1) == 8.7


def test_adapters_cost_two_flops_per_number_that_a_token_meets(qwen):
    lora = Lora(rank=32)
    assert added_flops(qwen, (Part("lora", "lora", "shared", lora),)) == 2 * numbers(qwen, lora).lora
    everywhere = (Part("routed", "routed", "shared", Routed(rank=32)),)
    assert added_flops(qwen, everywhere) == 2 * 477_757_440 * 4 // 60  # four of sixty experts
    aliased = added_flops(qwen, flex_parts(Graft(train="lora", rank=32), Gate(mode="open")))
    assert aliased == 24 * 2 * (8_650_752 + 3 * 32 * 3456)  # the frozen expert, and its adapters


def test_experts_in_place_cost_those_tokens_that_pick_them(qwen):
    copy = Graft(start="copy")
    assert added_flops(qwen, flex_parts(copy, Gate(mode="in_place"))) == 24 * (2 * 2 * 8_650_752 * 4 // 60)
    assert added_flops(qwen, flex_parts(copy, Gate(mode="off"))) == 0


def products(model, run) -> int:
    """FLOPs of all products but attention's own, as torch counts them; experts in the family's own way."""
    model.model.config._experts_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    model.model.config._experts_implementation = "flexray"
    attention = ("bmm", "scaled_dot_product")
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if not any(a in str(op) for a in attention) or "baddbmm" in str(op))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_flops_are_what_torch_counts(family):
    model = backbone(family, torch.float32)
    ids, _ = batch(1, 2, [8])
    assert products(model, lambda: model.model(input_ids=ids, use_cache=False)) == 16 * frozen_flops(model).total


@pytest.mark.parametrize("kind", ["qwen2_moe", "gpt_oss"])
def test_added_flops_are_what_torch_counts(kind):
    model = backbone(kind, torch.float32)
    for parts in (flex_parts(Graft(), Gate()), flex_parts(Graft(experts=2, train="lora"), Gate(mode="open"))):
        seats = seated(model, parts, 1)

        def run(on, seats=seats):
            with seats.using(None if on else ()):
                for block in model.blocks:
                    block.module(torch.ones(2, 8, block.width))

        assert counted(lambda: run(True)) - counted(lambda: run(False)) == 16 * added_flops(model, parts)
        seats.detach()


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
def test_how_many_experts_a_token_gets(family):
    model = backbone(family, torch.float32)
    example = model.family.example()
    assert {picked(b) for b in model.blocks} == {example["num_experts_per_tok"]}


def test_latency_takes_turns_and_leaves_the_model_as_it_was():
    model = backbone("mixtral", torch.float32)
    ids, mask = batch(1, 2, [6])
    before = model.model(input_ids=ids, attention_mask=mask).logits
    found = latency(model, flex_parts(Graft(experts=2), Gate(), Lora()), ids, repetitions=3)
    assert len(found.frozen) == len(found.adapted) == 3 and min(found.frozen + found.adapted) > 0
    assert found.increase > -1
    assert torch.equal(model.model(input_ids=ids, attention_mask=mask).logits, before)
    assert not any(m._forward_hooks for m in model.model.modules())
