"""Activations made again against activations kept."""

import pytest
import torch

from flexray.models import recompute
from flexray.models.seats import Seats
from flexray.models.usage import Usage
from flexray.parts import Gate, Graft, Lora
from tests.models.small import FAMILIES, VOCABULARY, backbone, flex_parts, random_state

PARTS = flex_parts(Graft(rank=2), Gate(), Lora(rank=2, dropout=0.5))
IDS = torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


def seated(model) -> Seats:
    seats = Seats(model, PARTS, 2)
    seats.put(random_state(seats.shapes, 2, model.blocks[0].n_experts))
    return seats


def step(seats: Seats) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of one step with dropout, and how many bytes were kept for the backward."""
    kept = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t  # held, so that no other tensor comes to the same place
        return t

    seats.zero_grad()
    dropout = [torch.Generator().manual_seed(k) for k in range(2)]
    with seats.using(train=("lora", "expert", "gate"), dropout=dropout):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = seats.backbone.model(IDS, use_cache=False).logits.square().sum()
        loss.backward()
    assert [g.get_state().sum() for g in dropout] != [torch.Generator().manual_seed(k).get_state().sum() for k in range(2)]
    return {name: t.grad.clone() for name, t in seats.live().items()}, sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_bit_for_bit_for_less_memory(family):
    seats = seated(backbone(family))
    before, much = step(seats)
    seats.recompute(True)
    after, little = step(seats)
    assert all(torch.equal(after[name], grad) for name, grad in before.items())
    assert little < 0.6 * much, (little, much)
    seats.recompute(False)
    assert step(seats)[1] == much


def test_a_forward_without_gradients_keeps_nothing_and_a_cache_works():
    seats = seated(backbone("qwen2_moe"))
    seats.recompute(True)
    with torch.no_grad(), seats.using():
        whole = seats.backbone.model(IDS, use_cache=True)
        assert whole.past_key_values.get_seq_length() == 12


def test_detached_seats_leave_the_layers_as_they_were():
    model = backbone("mixtral")
    seats = seated(model)
    seats.recompute(True)
    assert all("forward" in vars(layer) for layer in recompute.decoder_layers(model.model))
    seats.detach()
    assert not any("forward" in vars(layer) for layer in recompute.decoder_layers(model.model))


def test_tokens_are_counted_once():
    seats = seated(backbone("qwen2_moe"))
    counted = []
    for on in (False, True):
        seats.recompute(on)
        usage = Usage(seats.backbone, 2)
        with usage.counting(torch.tensor([12, 12])), seats.using(train=("lora",)):
            seats.backbone.model(IDS, use_cache=False).logits.sum().backward()
        counted.append(usage.counts())
    assert all(torch.equal(counted[1][name], counts) for name, counts in counted[0].items())
