"""Products of groups of rows, by every kernel, against one product per row."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from flexray.models import products
from flexray.models.products import Groups

G, X, Y = 4, 8, 12
ENDS = [3, 3, 5, 10]
"""Rows 0 … 2 are the first matrix', 3 and 4 the third's, 5 … 9 the last's; the second has none."""
LOOP = Groups("loop", 0, 10, ((0, 3, False), (2, 2, False), (3, 4, False), (3, 1, True)))
GROUPED = Groups("grouped", 0, 10, first=0, last=G, ends_G=torch.tensor(ENDS, dtype=torch.int32))
OWNER = np.repeat(range(G), np.diff([0, *ENDS]))


def given(seed=0, rows=10):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) for shape in ((rows, X), (G, X, Y), (rows, Y)))


@pytest.fixture(params=["MKL", "oneDNN"])
def _library(request, monkeypatch):
    """All products by it."""
    if request.param == "oneDNN":
        for name, value in (("onednn_is_quicker", lambda: True), ("WORTH", 1), ("DEEP", 1)):
            monkeypatch.setattr(products, name, value)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("groups", [LOOP, GROUPED], ids=["loop", "grouped"])
def test_a_row_meets_its_groups_matrix(groups):
    x_RX, weight_GXY, y_RY = given()
    expected = torch.stack([x @ weight_GXY[g] for x, g in zip(x_RX, OWNER, strict=True)])
    assert_close(products.product(x_RX, weight_GXY, groups), expected)
    room = torch.full((10, Y), torch.nan)
    assert products.product(x_RX, weight_GXY, groups, room).data_ptr() == room.data_ptr()
    assert_close(room, expected)
    stored_GYX = weight_GXY.mT.contiguous()
    assert_close(products.product(x_RX, stored_GYX.mT, groups), expected)
    outer = torch.zeros(G, X, Y)
    for x, y, g in zip(x_RX, y_RY, OWNER, strict=True):
        outer[g] += torch.outer(x, y)
    assert_close(products.outers([(x_RX, y_RY)], (groups,), weight_GXY), outer)


@pytest.mark.usefixtures("_library")
def test_one_run_alone():
    x_RX, weight_GXY, _ = given()
    assert_close(products.product(x_RX, weight_GXY, Groups("loop", 0, 10, ((2, 10, False),))), x_RX @ weight_GXY[2])


def test_batches_and_what_comes_after_them():
    x_RX, weight_GXY, y_RY = given(rows=9)
    # Two rows of each of the matrices 1, 2 and 3, then three more of 2: the first has none.
    groups = (Groups("even", 0, 6, first=1, last=4), Groups("loop", 6, 9, ((2, 3, True),)))
    owner, outer = [1, 1, 2, 2, 3, 3, 2, 2, 2], torch.zeros(G, X, Y)
    parts = []
    for one in groups:
        x, y, rows = x_RX[one.start : one.stop], y_RY[one.start : one.stop], owner[one.start : one.stop]
        parts.append((x, y))
        expected = torch.stack([r @ weight_GXY[g] for r, g in zip(x, rows, strict=True)])
        assert_close(products.product(x, weight_GXY, one), expected)
    for x, y, g in zip(x_RX, y_RY, owner, strict=True):
        outer[g] += torch.outer(x, y)
    assert_close(products.outers(parts, groups, weight_GXY), outer)


def test_nothing_at_all():
    _, weight_GXY, _ = given()
    assert not products.outers([], (), weight_GXY).any()


def test_whether_onednn_is_quicker_is_read_off_the_processor(monkeypatch):
    for has, quicker in (
        ({"avx512_f": True, "cpu_name": "AMD EPYC"}, True),
        ({"avx512_f": True, "cpu_name": "Intel(R) Xeon(R)"}, False),
        ({"avx512_f": False, "cpu_name": "AMD EPYC"}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        products.onednn_is_quicker.cache_clear()
        assert products.onednn_is_quicker() == quicker
    monkeypatch.undo()
    products.onednn_is_quicker.cache_clear()
