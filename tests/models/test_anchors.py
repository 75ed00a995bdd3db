"""Anchors: shares by hand, what represents a prompt, and rows weighed in whole models, also with a cache."""

import math

import pytest
import torch
from torch.testing import assert_close

from flexray.models.anchors import represent, row_shares
from flexray.models.seats import Seats
from flexray.parts import Anchors, Lora, Part
from tests.models.small import FAMILIES, VOCABULARY, backbone, random_state

LORA = Lora(rank=2, alpha=4.0)
OVER = ("global", "local")


def parts(**options):
    sides = (Part("global", "lora", "shared", LORA), Part("local", "lora", "private", LORA))
    return (*sides, Part("anchors", "anchors", "private", Anchors(over=OVER, prompts=3, **options)))


def seated(model, K, seed=1, **options):
    seats = Seats(model, parts(**options), K)
    seats.put(random_state(seats.shapes, K, 6, seed))
    return seats


def ids(rows, width, seed=2):
    return torch.randint(1, VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(seed))


def logits(model, ids, **more):
    return model.model(input_ids=ids, **({"use_cache": False} | more)).logits


# ---- by hand ----

REPS = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])  # of length 1 and 2, and none
PROMPTS = torch.tensor([[[3.0, 4.0], [5.0, 0.0], [-1.0, -1.0]]])  # cosines (0.6, 0.8), (1, 0), (-0.7, -0.7)


def test_scaled_shares_by_hand():
    # Means over the two anchors: 0.7, 0.5, -0.707; times 0.5: 0.35, 0.25, and nothing below 0.
    local = torch.tensor([0.35, 0.25, 0.0])
    got = row_shares(Anchors(OVER), REPS, PROMPTS)
    assert_close(got, torch.stack([1 - local, local], -1)[None])
    assert_close(row_shares(Anchors(OVER, toward="global"), REPS, PROMPTS), got.flip(-1))
    assert_close(row_shares(Anchors(OVER, sharpness=9.0), REPS, PROMPTS)[0, :2], torch.tensor([[0.0, 1.0]]).expand(2, 2))


def test_sigmoid_shares_by_hand():
    # sharpness 2·ln 3 times 0.5 is ln 3: σ = 3/4.
    anchors = Anchors(OVER, share="sigmoid", sharpness=2 * math.log(3))
    assert_close(row_shares(anchors, REPS, PROMPTS)[0, 1], torch.tensor([0.25, 0.75]))


def test_without_any_anchor_similarity_is_nothing():
    assert row_shares(Anchors(OVER), 0 * REPS, PROMPTS).tolist() == [[[1.0, 0.0]] * 3]


# ---- what represents a prompt ----


def hidden(model, row):
    return model.model(input_ids=row[None], output_hidden_states=True, use_cache=False).hidden_states[-1][0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_represented_by_its_own_tokens_alone(family):
    model = backbone(family)
    rows, starts = ids(3, 7), torch.tensor([4, 2, 1 << 30])
    mean, last = (represent(model, rows, starts, how) for how in ("mean", "last"))
    for i, start in enumerate((4, 2, 7)):
        alone = hidden(model, rows[i, :start])
        assert_close(mean[i], alone.mean(0), rtol=1e-5, atol=1e-5)
        assert_close(last[i], alone[-1], rtol=1e-5, atol=1e-5)
    other = torch.where(torch.arange(7) < starts[:, None], rows, ids(3, 7, seed=9))
    assert_close(represent(model, other, starts), mean, rtol=1e-5, atol=1e-5)


def test_rows_may_be_padded_on_the_left():
    model = backbone("mixtral")
    rows, lengths = ids(2, 5), torch.tensor([5, 3])
    plain = {how: represent(model, rows, lengths, how) for how in ("mean", "last")}
    left = torch.stack([rows[0], rows[1].roll(2)])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    for how, wanted in plain.items():
        got = represent(model, left, torch.tensor([5, 5]), how, attention_mask=mask, position_ids=places)
        assert_close(got, wanted, rtol=1e-6, atol=1e-6)


# ---- in whole models ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"toward": "global", "share": "sigmoid", "pooling": "last", "sharpness": 3.0}])
def test_rows_are_weighed_as_with_merged_weights(family, options):
    """Every row alone, through a model into which its own mixture was merged."""
    model = backbone(family)
    seats = seated(model, 2, **options)
    rows, starts = ids(4, 6), torch.tensor([3, 2, 4, 6])
    with torch.no_grad(), seats.using(starts=starts):
        got = logits(model, rows)
    state = seats.take()
    shares = row_shares(
        seats.parts[-1].config,
        state["anchors/reps"],
        represent(model, rows, starts, options.get("pooling", "mean")).view(2, 2, -1),
    )
    seats.detach()
    assert shares.std() > 0.01
    for row in range(4):
        k, before = row // 2, {}
        for path, linear in model.family.adapter_sites(model.model, LORA.targets).items():
            before[path] = linear.weight.data.clone()
            for place, name in enumerate(OVER):
                change = state[f"{name}/{path}/b"][k] @ state[f"{name}/{path}/a"][k]
                linear.weight.data += shares[k, row % 2, place] * LORA.alpha / LORA.rank * change
        assert_close(got[row], logits(model, rows[row : row + 1])[0], rtol=1e-5, atol=1e-5)
        for path, weight in before.items():
            model.model.get_submodule(path).weight.data = weight


def test_anchors_act_only_with_both_of_their_adapters_and_are_not_trained():
    model = backbone("mixtral", torch.float32)
    seats = seated(model, 2)
    rows, starts = ids(4, 6), torch.tensor([3, 2, 4, 6])
    with torch.no_grad():
        frozen = logits(model, rows)
        for some in ((), ("anchors",)):
            with seats.using(some):  # without starts: nobody asks for them
                assert torch.equal(logits(model, rows), frozen)
        outs = []
        for some in (("local",), ("local", "anchors")):
            with seats.using(some):
                outs.append(logits(model, rows))
    assert torch.equal(*outs) and not torch.equal(outs[0], frozen)
    with seats.using(train=["global", "local", "anchors"], starts=starts):
        logits(model, rows).square().sum().backward()
    assert all(bool(t.grad.any()) for t in seats.live().values()) and "anchors/reps" not in seats.live()
    assert seats.take(["anchors"])["anchors/reps"].dtype == torch.float32
    with pytest.raises(AssertionError, match="starts"), seats.using():
        logits(model, rows)
    with torch.no_grad():
        assert torch.equal(logits(model, rows), frozen)  # also after an error


def test_a_response_has_no_say_in_its_rows_shares():
    model = backbone("qwen2_moe")
    seats = seated(model, 2)
    one, other, starts = ids(4, 6), ids(4, 6, seed=9), torch.tensor([3, 3, 3, 3])
    other[:, :3] = one[:, :3]
    with torch.no_grad(), seats.using(starts=starts):
        assert_close(logits(model, one)[:, :3], logits(model, other)[:, :3])
