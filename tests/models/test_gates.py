"""Gates, by hand: one seat, one token of width 1, y = 10."""

import math

from torch import tensor
from torch.testing import assert_close

from flexray.models.gates import added, gate_scores, mixed, routed

Y = tensor([[[10.0]]])
TWO = tensor([[[[1.0]], [[3.0]]]])  # two experts
SCORES = tensor([[[0.0, math.log(3)]]])  # g = 1/2 and 3/4


def test_scores_are_rows_times_the_token_plus_bias():
    gate = {"weight": tensor([[[1.0, 2.0], [0.0, 1.0]]]), "bias": tensor([[0.5, -1.0]])}
    assert_close(gate_scores(gate, tensor([[[3.0, 4.0]]])), tensor([[[11.5, 3.0]]]))


def test_add():
    assert_close(added(Y, SCORES, TWO), tensor([[[10 + 0.5 * 1 + 0.75 * 3]]]))


def test_mix_takes_means_over_the_grafted_experts():
    assert_close(mixed(Y, SCORES, TWO), tensor([[[10 * (1 - 0.625) + (0.5 * 1 + 0.75 * 3) / 2]]]))


def test_route_is_one_softmax_over_all():
    logits = tensor([[[math.log(2), math.log(4)]]])  # 2 + 4, against 1 and 3
    assert_close(routed(Y, logits, SCORES, TWO, 2.0), tensor([[[10 * 0.6 + 2 * (0.1 * 1 + 0.3 * 3)]]]))


def test_route_does_not_overflow():
    logits, scores = tensor([[[900.0, 0.0]]]), tensor([[[900.0, -900.0]]])
    assert_close(routed(Y, logits, scores, TWO, 1.0), tensor([[[10 * 0.5 + 0.5 * 1]]]))
