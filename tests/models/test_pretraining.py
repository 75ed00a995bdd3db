import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flexray.models import pretraining as p
from flexray.models import tiny


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    return tiny.build(0, tiny.config(50, num_experts=4, eos_token_id=0, **shape)).eval()


@pytest.fixture(scope="module")
def packed():
    rng = np.random.default_rng(0)
    rows = [(rng.integers(1, 50, size=n), max(1, n - 3)) for n in rng.integers(4, 12, size=23)]
    return p.pack(rows, ["even" if i % 2 == 0 else "odd" for i in range(23)])


def test_a_batch_is_padded_on_the_right_and_weighs_the_response():
    packed = p.pack([([5, 6, 7], 1), ([1, 2, 3, 4], 3)], ["a", "b"])
    batch = p.make_batch(packed, np.array([0, 1]), prompt_weight=0.25)
    assert batch.ids_BT.tolist() == [[5, 6, 7, 0], [1, 2, 3, 4]]
    assert batch.mask_BT.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.weight_BT.tolist() == [[0.0, 1.0, 1.0, 0.0], [0.0, 0.25, 0.25, 1.0]]


def test_parts_of_a_batch_make_up_the_whole(packed):
    batch = p.make_batch(packed, np.arange(7), 0.1)
    parts = [batch.part(rank, 3) for rank in range(3)]
    assert sorted(row for part in parts for row in part.ids_BT.tolist()) == sorted(batch.ids_BT.tolist())


def test_an_epoch_has_no_row_twice_and_like_lengths_together(packed):
    epoch = list(islice(p.batch_numbers(packed.lengths, 5, seed=1), 4))
    assert len(set(np.concatenate(epoch))) == 20
    assert all(np.array_equal(a, b) for a, b in zip(epoch, p.batch_numbers(packed.lengths, 5, seed=1), strict=False))
    spread = [np.ptp(packed.lengths[numbers]) for numbers in epoch]
    assert max(spread) < np.ptp(packed.lengths)


def test_batches_go_on_for_ever_even_when_rows_are_fewer_than_a_batch():
    assert [len(numbers) for numbers in islice(p.batch_numbers(np.array([3, 4]), 8, seed=0), 3)] == [2, 2, 2]


def test_the_loss_is_that_of_the_next_token(packed):
    batch = p.make_batch(packed, np.arange(3), 0.0)
    logits = torch.randn(*batch.ids_BT.shape, 50, generator=torch.Generator().manual_seed(0))
    loss = p.token_loss(logits, batch)
    assert loss.shape == (3, batch.ids_BT.shape[1] - 1)
    assert loss[1, 2].item() == pytest.approx(F.cross_entropy(logits[1, 2], batch.ids_BT[1, 3]).item())


def test_balance_is_one_when_even_and_grows_with_unevenness():
    mask = torch.ones(2, 2, dtype=torch.long)
    one_each = 20.0 * torch.eye(4)
    assert p.balance_loss([one_each], mask, top_k=1).item() == pytest.approx(1.0, abs=1e-4)
    all_on_one = torch.tensor([[20.0, 0, 0, 0]]).repeat(4, 1)
    assert p.balance_loss([all_on_one], mask, top_k=1).item() == pytest.approx(4.0, abs=1e-4)
    assert p.balance_loss([one_each, all_on_one], mask, top_k=1).item() == pytest.approx(2.5, abs=1e-4)


def test_balance_does_not_see_padding():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    bare = p.balance_loss([logits[[0, 1, 3]]], torch.ones(1, 3, dtype=torch.long), 2)
    assert p.balance_loss([logits], mask, 2).item() == pytest.approx(bare.item())


def test_learning_rate_warms_up_and_falls():
    rates = [p.learning_rate(s, 100, 1.0, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.05 + 0.95 * 0.5)
    assert 0.05 < rates[99] < 0.06
    assert p.learning_rate(0, 5, 1.0, 0) == 1.0


def test_only_matrices_decay(model):
    decayed, free = p.optimizer(model, 1e-3, 0.1).param_groups
    assert all(w.ndim > 1 for w in decayed["params"])
    assert all(w.ndim <= 1 for w in free["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_scores_equal_row_by_row_scoring(model, packed):
    """Against one forward per row, and greedy generation."""
    scores = p.score(model, packed, 2, torch.device("cpu"), batch=4)
    losses, hits, tokens = {"even": 0.0, "odd": 0.0}, {"even": 0, "odd": 0}, {"even": 0, "odd": 0}
    for i, label in enumerate(packed.labels):
        row = torch.from_numpy(packed.tokens[packed.ends[i] - packed.lengths[i] : packed.ends[i]].astype(np.int64))
        start = int(packed.starts[i])
        with torch.no_grad():
            logits = model(input_ids=row[None]).logits[0]
            made = model.generate(
                row[None, :start], attention_mask=torch.ones(1, start), min_new_tokens=len(row) - start,
                max_new_tokens=len(row) - start, do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        losses[label] += F.cross_entropy(logits[start - 1 : -1], row[start:], reduction="sum").item()
        tokens[label] += len(row) - start
        hits[label] += torch.equal(made[0], row)
    assert scores.rows == {"even": 12, "odd": 11}
    for label in ("even", "odd"):
        assert scores.loss[label] == pytest.approx(losses[label] / tokens[label], rel=1e-4)
        assert scores.exact_match[label] == pytest.approx(hits[label] / scores.rows[label])
        shares = torch.tensor(scores.expert_share[label])
        assert shares.shape == (2, 4)
        assert torch.allclose(shares.sum(-1), torch.ones(2))
    assert scores.overall()["loss"] == pytest.approx(sum(scores.loss.values()) / 2)
    assert not math.isnan(scores.overall()["least_used_expert"])


def test_a_learnt_row_is_an_exact_match(model, packed):
    """Score what the model itself says: every answer is right."""
    prompt = torch.tensor([[3, 1, 4]])
    said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False, pad_token_id=0)
    own = p.pack([(said[0].numpy(), 3)], ["x"])
    assert p.score(model, own, 2, torch.device("cpu")).exact_match == {"x": 1.0}
