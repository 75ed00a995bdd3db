"""Tokens sorted by expert: rows by hand, room between them, and how they come together again."""

import pytest
import torch
from torch.testing import assert_close

from flexray.models import rows
from flexray.models.grouping import Layout
from flexray.models.products import Groups

INDEX_Nk = torch.tensor([[2, 0], [0, 4], [2, 3]])
"""Three tokens, two choices each; 4 is no expert of four. Pairs 0 … 5, by expert: 1, 2 (expert 0), 0, 4 (2), 5 (3)."""


def test_rows_by_hand():
    found = rows._on_host(INDEX_Nk, 4, rows.exact)
    assert found.pair_R.tolist() == found.order_P.tolist() == [1, 2, 0, 4, 5]
    assert found.token_R.tolist() == [0, 1, 0, 2, 2]
    assert found.row_S.tolist() == [2, 0, 1, 5, 3, 4]  # pair 3 has no expert: 5, the row after the last
    assert found.expert_R.tolist() == [0, 0, 2, 2, 3]
    assert found.place_P.tolist() == [0, 1, 2, 3, 4]
    assert not found.whole and [g.runs for g in found.groups] == [((0, 2, False), (2, 2, False), (3, 1, False))]


def test_rows_with_room_by_hand():
    # One row of each of the experts 0 … 3 in a batch (rows 0 … 3), and the rest of 0 and 2 in runs of two (4, 5 and 6, 7).
    groups = (Groups("even", 0, 4, first=0, last=4), Groups("loop", 4, 8, ((0, 2, True), (2, 2, True))))
    found = rows._on_host(INDEX_Nk, 4, lambda _: Layout(groups, even=1))
    assert found.place_P.tolist() == [0, 4, 2, 6, 3]  # pairs 1, 2 of expert 0; 0, 4 of 2; 5 of 3
    assert found.row_S.tolist() == [2, 0, 4, 8, 6, 3]
    assert [found.pair_R.tolist()[r] for r in (0, 4, 2, 6, 3)] == [1, 2, 0, 4, 5]
    weight_Nk = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert found.weights(weight_Nk)[:, 0].tolist() == [2, 0, 1, 6, 3, 0, 5, 0]  # expert 1's row and two more are nobody's
    assert found.pairs(torch.tensor([10.0, 11, 12, 13, 14, 15, 16, 17, 0])).tolist() == [[12, 10], [14, 0], [16, 13]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", ["host", "device", "small"])
def test_rows_come_together_again(make, dtype, weighted):
    generator = torch.Generator().manual_seed(0)
    index_Nk = torch.randint(7, (50, 3), generator=generator)  # 6 is no expert
    if make == "device":
        found = rows._on_device(index_Nk, 6)
    else:
        found = rows._on_host(index_Nk, 6, lambda counts_E: rows.exact(counts_E, make == "small"))
        assert found.small == (make == "small")
    weight_Nk = torch.rand(50, 3, generator=generator, dtype=dtype)
    y_RD = torch.cat([torch.randn(len(found.pair_R), 8, generator=generator, dtype=dtype), torch.zeros(1, 8, dtype=dtype)])
    used_Nk = weight_Nk if weighted else torch.ones_like(weight_Nk)
    expected = torch.zeros(50, 8, dtype=dtype)
    for r, pair in enumerate(found.pair_R.tolist()):
        present = make != "device" or index_Nk.flatten()[pair] < 6
        expected[pair // 3] += y_RD[r] * used_Nk.flatten()[pair] * present
    if make == "device":
        assert torch.equal(found.absent_Nk, index_Nk == 6)
        weight_Nk = weight_Nk.masked_fill(found.absent_Nk, 0)
        if not weighted:
            return
    assert_close(found.combined(y_RD, weight_Nk if weighted else None), expected)


def test_the_device_and_the_host_sort_alike():
    index_Nk = torch.randint(6, (50, 3), generator=torch.Generator().manual_seed(1))
    host, device = rows._on_host(index_Nk, 6, lambda counts_E: rows.exact(counts_E, True)), rows._on_device(index_Nk, 6)
    for name in ("pair_R", "token_R", "row_S", "order_P"):
        assert torch.equal(getattr(host, name), getattr(device, name)), name
    assert torch.equal(host.groups[0].ends_G, device.groups[0].ends_G)


def test_finer_weights_are_not_rounded_to_the_rows_dtype():
    found = rows._on_host(torch.arange(4).repeat(64)[:, None], 4, rows.exact)
    generator = torch.Generator().manual_seed(2)
    y_RD = torch.randn(256, 8, generator=generator).bfloat16()
    weight_Nk = torch.rand(256, 1, generator=generator)
    truth = (y_RD.double() * weight_Nk.double()[found.pair_R]).index_select(0, found.row_S)
    fine, rough = ((found.combined(y_RD, w).double() - truth).norm() for w in (weight_Nk, weight_Nk.bfloat16()))
    assert fine < 0.8 * rough  # one rounding (of the result) instead of two: 1 / √2


def test_cells_are_by_expert_and_then_by_seat():
    # Two seats of one and a half … of two tokens each; pairs 0 … 3 are seat 0's, 4 … 7 seat 1's.
    found = rows._on_host(torch.tensor([[0, 1], [1, 2], [1, 2], [2, 3]]), 3, rows.exact)  # 3 is no expert
    assert found.order_P.tolist() == [0, 1, 2, 4, 3, 5, 6]
    # (expert, seat): (0, 0) has pair 0; (1, 0) 1 and 2; (1, 1) 4; (2, 0) 3; (2, 1) 5 and 6. As expert · 2 + seat:
    runs = ((0, 1, False), (2, 2, False), (3, 1, False), (4, 1, False), (5, 2, False))
    assert [g.runs for g in rows.cells(found, 2, grouped=False)] == [runs]
    assert rows.cells(found, 2, grouped=True)[0].ends_G.tolist() == [1, 1, 3, 4, 5, 7]
    device = rows._on_device(torch.tensor([[0, 1], [1, 2], [1, 2], [2, 2]]), 3)
    assert rows.cells(device, 2, grouped=True)[0].ends_G.tolist() == [1, 1, 3, 4, 5, 8]
