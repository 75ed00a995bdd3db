"""Folding, over every family and kind of part: the model's own weights and what stands beside them give the seats' logits."""

import copy

import pytest
import torch

from flexray.models import saving
from flexray.models.seats import Seats
from flexray.parts import Gate, Graft, Lora, Part, Routed
from flexray.serve.export import CODE
from flexray.serve.exported import modeling_flexray as code
from flexray.serve.fold import fold
from flexray.state import part_of, seat
from tests.models.saved import TOKENS
from tests.models.small import FAMILIES, SOFTMAX, backbone, flex_parts, random_state
from tests.serve.conftest import assert_close, loaded

LORA = Lora(targets=("q", "o"), rank=3)
FULL, LOW, ZERO = Graft(experts=2, start="copy"), Graft(train="lora", start="copy", rank=3), Graft(train="lora", rank=3)
CASES = {
    "adapters": (Part("lora", "lora", "shared", LORA), Part("w", "delta", "private", LORA)),
    "divided": (Part("a", "lora_a", "shared", LORA), Part("b", "lora_b", "private", LORA)),
    "routed": (Part("experts", "routed", "shared", Routed(rank=3)),),
    "in place": flex_parts(FULL, Gate("in_place")),
    "in place, low rank": flex_parts(LOW, Gate("in_place")),
    "add": flex_parts(FULL, Gate(), LORA),
    "add, low rank": flex_parts(LOW, Gate()),
    "add, from zero": flex_parts(ZERO, Gate()),
    "mix": flex_parts(FULL, Gate("mix")),
    "open": flex_parts(FULL, Gate("open")),
    "route": flex_parts(FULL, Gate("route")),
}  # fmt: skip
PLAIN = {"adapters", "divided", "routed", "in place", "in place, low rank"}


@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_family_the_folded_model_is_the_seated_one(family):
    base = backbone(family)
    for case, parts in CASES.items():
        if case == "route" and family not in SOFTMAX:
            continue
        seats = Seats(base, parts, 1)
        state = random_state(seats.shapes, 1, base.blocks[0].n_experts)
        seats.put(state)
        with torch.no_grad(), seats.using({part_of(n) for n in state}):
            wanted = base.model(input_ids=TOKENS, use_cache=False).logits
        seats.detach()
        folded = fold(base, parts, seat(state, 0))
        assert bool(folded.told) == (case not in PLAIN), case
        torch.testing.assert_close(_model(base, folded)(input_ids=TOKENS).logits, wanted, rtol=1e-6, atol=1e-6, msg=case)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_family_the_files_are_loaded_by_plain_transformers(family, tmp_path):
    """In the layouts of their checkpoints, merged; and in one of their own, with code."""
    base = backbone(family, torch.float32)
    for case in ("routed", "in place", "add"):
        seats = Seats(base, CASES[case], 1)
        state = random_state(seats.shapes, 1, base.blocks[0].n_experts)
        seats.put(state)
        with torch.no_grad(), seats.using({part_of(n) for n in state}):
            wanted = base.model(input_ids=TOKENS, use_cache=False).logits
        seats.detach()
        folded, path = fold(base, CASES[case], seat(state, 0)), tmp_path / case.replace(" ", "_")
        path.mkdir()
        if case == "add":
            saving.save_custom(base, folded.weights, folded.told, folded.beside, CODE.read_text(), path)
        else:
            saving.save_plain(base, folded.weights, path)
        assert (path / "modeling_flexray.py").exists() == (case == "add")
        assert_close(loaded(path, TOKENS), wanted)


def _model(base, folded):
    model = copy.deepcopy(base.model)
    code.attach(model, folded.told)
    model.double()
    found = model.load_state_dict({**folded.weights, **folded.beside}, strict=False)
    assert not found.unexpected_keys
    return model.requires_grad_(False)
