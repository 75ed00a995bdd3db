"""Usage: counts of the router's choices, against loops."""

import pytest
import torch

from flexray.models.usage import Usage, chosen, outermost, real_tokens
from flexray.parts import Anchors, Lora, Part
from tests.models.small import FAMILIES, backbone
from tests.models.test_seats import batch, seated


def test_choices_by_hand():
    # Two seats of two tokens with two choices each; 3 stands for no expert, and the last token is padding.
    index = torch.tensor([[0, 1], [1, 3], [2, 0], [1, 2]])
    real = torch.tensor([True, True, True, False])
    assert chosen(index, real, 2, 3).tolist() == [[1, 2, 0], [1, 0, 1]]
    assert real_tokens(torch.tensor([1, 2]), 6).tolist() == [True, False, False, True, True, False]


def run(model, ids):
    return model.model(input_ids=ids, use_cache=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_tokens_are_counted_without_padding(family):
    model = backbone(family)
    ids, mask = batch(2, 2, [6, 3])
    usage = Usage(model, 2)
    run(model, ids)  # not asked to count
    with usage.counting(mask.sum(1)):
        run(model, ids)
        run(model, ids)
    counts = usage.counts()
    for block in model.blocks:
        plain = torch.zeros(2, block.n_experts)
        hook = block.router.register_forward_hook(lambda m, a, out, seen=(seen := []): seen.append(out[2]))
        run(model, ids)
        hook.remove()
        for token, indices in enumerate(seen[0].tolist()):
            row, column = divmod(token, ids.shape[1])
            for i in indices if mask[row, column] else ():
                plain[row // 2, i] += 2
        assert torch.equal(counts[block.name], plain)


def test_a_seat_that_stands_still_is_not_counted():
    model = backbone("qwen2_moe")
    ids, mask = batch(2, 1, [4, 4])
    usage = Usage(model, 2)
    with usage.counting(mask.sum(1), moving_K=torch.tensor([1.0, 0.0])):
        run(model, ids)
    for t in usage.counts().values():
        assert t.sum(1).tolist() == [4 * 2, 0]  # tokens times experts per token


def test_forwards_within_a_forward_are_not_counted():
    model = backbone("mixtral")
    lora = Lora(rank=2)
    pair = (Part("global", "lora", "shared", lora), Part("local", "lora", "private", lora))
    seats = seated(model, (*pair, Part("anchors", "anchors", "private", Anchors(("global", "local")))), 1)
    ids, _ = batch(1, 2, [5])
    usage = Usage(model, 1)
    with usage.counting(torch.tensor([5, 4])), seats.using(starts=torch.tensor([2, 2])):
        run(model, ids)
    assert all(int(t.sum()) == 9 * 2 for t in usage.counts().values())
    seats.detach()


def test_a_forward_that_fails_leaves_nothing_behind():
    model = backbone("mixtral")
    with outermost(model) as outside:
        with pytest.raises(TypeError):
            model.model(input_ids="no ids")
        hook = model.blocks[0].experts.register_forward_hook(lambda *_: seen.append(outside()))
        seen: list[bool] = []
        run(model, torch.zeros(1, 2, dtype=torch.long))
        hook.remove()
    assert seen == [True]
