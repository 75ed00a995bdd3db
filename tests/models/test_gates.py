"""Gates, by hand: one seat, one token of width 1, y = 10."""

import math

import pytest
import torch
from torch import nn, tensor
from torch.testing import assert_close

from flexray.models.gates import added, blend, blended, gate_scores, mixed, routed, weigh
from tests.models.small import block_of

Y = tensor([[[10.0]]])
TWO = tensor([[[[1.0]], [[3.0]]]])  # two experts
SCORES = tensor([[[0.0, math.log(3)]]])  # g = 1/2 and 3/4


def test_scores_are_rows_times_the_token_plus_bias():
    gate = {"weight": tensor([[[1.0, 2.0], [0.0, 1.0]]]), "bias": tensor([[0.5, -1.0]])}
    assert_close(gate_scores(gate, tensor([[[3.0, 4.0]]])), tensor([[[11.5, 3.0]]]))


def test_add():
    assert_close(blended(Y, added(SCORES), TWO), tensor([[[10 + 0.5 * 1 + 0.75 * 3]]]))


def test_mix_takes_means_over_the_grafted_experts():
    assert_close(blended(Y, mixed(SCORES), TWO), tensor([[[10 * (1 - 0.625) + (0.5 * 1 + 0.75 * 3) / 2]]]))


def test_route_is_one_softmax_over_all():
    logits = tensor([[[math.log(2), math.log(4)]]])  # 2 + 4, against 1 and 3
    assert_close(blended(Y, routed(logits, SCORES, 2.0), TWO), tensor([[[10 * 0.6 + 2 * (0.1 * 1 + 0.3 * 3)]]]))


def test_route_does_not_overflow():
    logits, scores = tensor([[[900.0, 0.0]]]), tensor([[[900.0, -900.0]]])
    assert_close(blended(Y, routed(logits, scores, 1.0), TWO), tensor([[[10 * 0.5 + 0.5 * 1]]]))


def test_open_adds_the_experts_as_they_are():
    assert_close(blend("open", block_of(nn.Identity()), {}, torch.zeros(1, 1, 6), Y, TWO, None), tensor([[[10 + 1 + 3.0]]]))


@pytest.mark.parametrize(
    ("mode", "gates"),
    [("open", [1.0, 1.0]), ("add", [0.5, 0.75]), ("mix", [0.5, 0.75]), ("route", [0.1, 0.3])],  # route: 1 and 3 of 6 + 4
)
def test_a_gates_value_is_its_own_whatever_it_is_multiplied_by(mode, gates):
    gate = {"weight": torch.zeros(1, 2, 6), "bias": SCORES[:, 0]}
    logits = tensor([[[math.log(2), math.log(4)]]])
    found = weigh(mode, block_of(nn.Identity()), gate, torch.zeros(1, 1, 6), 2, logits)
    assert_close(found.gate_KNG, tensor([[gates]]))
