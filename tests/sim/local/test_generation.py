"""Greedy decoding against transformers' own; likelihoods against one row at a time; seats against one by one."""

from functools import cache

import numpy as np
import pytest
import torch

from flexray.models.backbone import Backbone
from flexray.models.seats import Seats, shapes_of
from flexray.parts import Anchors, Gate, Graft, Lora, Part
from flexray.sim.local.generation import NO_PROMPT, _unfinished, greedy, likelihoods, prefill
from flexray.sim.local.lm import collate, respond
from flexray.state import part_of, seat
from tests.models import small

ENDS, LIMIT = [3, 7, 11, 20, 21, 22], 10


def rows(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, small.VOCABULARY, n).astype(np.int32) for n in lengths]


@cache
def backbone(name: str) -> Backbone:
    return small.backbone(name)


def of_transformers(model, prompt: np.ndarray) -> list[int]:
    ids = torch.from_numpy(prompt[None].astype(np.int64))
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT, do_sample=False, eos_token_id=ENDS, pad_token_id=0
    )
    said = out[0, len(prompt) :].tolist()
    return said[:-1] if said[-1] in ENDS else said


@pytest.mark.parametrize("name", small.FAMILIES)
def test_ragged_prompts_get_what_transformers_generates(name):
    prompts = rows(5, 1, 9, 3, 4, 6)
    said = greedy(backbone(name), [prompts], ENDS, LIMIT)
    assert said == [[of_transformers(backbone(name).model, prompt) for prompt in prompts]]


@pytest.mark.parametrize("name", small.FAMILIES)
def test_likelihoods_are_those_of_whole_rows(name):
    prompts = rows(5, 1, 9)
    continuations = [rows(1, 4, seed=1), rows(2, 3, 5, seed=2), rows(6, seed=3)]
    found = likelihoods(backbone(name), prefill(backbone(name), prompts), continuations)
    assert found.shape == (3, 3)
    for i, (prompt, each) in enumerate(zip(prompts, continuations, strict=True)):
        for c, tokens in enumerate(each):
            whole = respond(backbone(name), collate([[(np.concatenate([prompt, tokens]), len(prompt))]]))
            torch.testing.assert_close(found[i, c], whole.nll.double().sum(), rtol=1e-6, atol=1e-6)
    assert found[0, 2] == found[2, 1] == torch.inf


def test_continuations_of_one_token_need_no_second_forward():
    prompts, b = rows(4, 2), backbone("qwen2_moe")
    prefix = prefill(b, prompts)
    found = likelihoods(b, prefix, [rows(1, 1, seed=1), rows(1, seed=2)])
    logp = prefix.logits.float().log_softmax(-1)
    assert found[1, 0] == pytest.approx(-logp[1, int(rows(1, seed=2)[0][0])].item())


PARTS = {
    "flex": small.flex_parts(Graft(start="copy"), Gate(mode="route"), Lora(rank=2)),
    "dpa": (
        Part("global", "lora", "shared", Lora(rank=2)), Part("local", "lora", "private", Lora(rank=2)),
        Part("anchors", "anchors", "private", Anchors(("global", "local"), 3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_seats_in_one_forward_are_one_by_one(parts):
    b = backbone("qwen2_moe")
    state = small.random_state(shapes_of(b, parts), 2, b.blocks[0].n_experts)
    prompts = [rows(5, 2, 7, 3), [*rows(4, 6, 1, seed=5), NO_PROMPT]]
    said, nll = asked(b, parts, state, prompts)
    for k, own in enumerate([prompts[0], prompts[1][:3]]):
        alone = {name: t[None] for name, t in seat(state, k).items()}
        for i, prompt in enumerate(own):
            said_alone, nll_alone = asked(b, parts, alone, [[prompt]])
            assert said[k][i] == said_alone[0][0]
            torch.testing.assert_close(nll[4 * k + i], nll_alone[0], rtol=1e-6, atol=1e-6)
    assert said[1][3] == []  # the place that the second seat did not need
    assert said[0] != asked(b, (), {}, [prompts[0]])[0][0]  # what the seats have matters


def asked(b: Backbone, parts, state, prompts):
    """What is said to each prompt, and the likelihood of two continuations."""
    seats, n = Seats(b, parts, len(prompts)), sum(map(len, prompts))
    seats.put(state)
    flat = [prompt for own in prompts for prompt in own]
    used, starts = {part_of(name) for name in state}, torch.full((n,), max(map(len, flat)))
    with seats.using(used, starts=starts):
        said = greedy(b, prompts, ENDS, LIMIT, shrink=not any(p.kind == "anchors" for p in parts))
    with seats.using(used, starts=starts):
        nll = likelihoods(b, prefill(b, flat), [rows(2, 3, seed=9)] * n)
    seats.detach()
    return said, nll


def test_rows_that_are_done_leave_when_they_are_half_of_all():
    def kept(*done: list[int]) -> list[int] | None:
        found = _unfinished(torch.tensor(done).bool())
        return None if found is None else found.tolist()

    assert kept([0, 1, 0, 1], [1, 1, 0, 0]) == [0, 2, 6, 7]
    assert kept([0, 1, 0, 1], [1, 0, 0, 0]) is None  # the second seat has three to go
    assert kept([1, 1, 1, 0], [1, 1, 1, 1]) == [3, 4]  # as many for each


def test_at_most_so_many_tokens():
    assert [len(said) for said in greedy(backbone("qwen2_moe"), [rows(5, 2)], [], 3)[0]] == [3, 3]
