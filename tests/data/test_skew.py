"""How unlike clients are, in hand-computed numbers."""

import math

import numpy as np
import pytest

from flexray.data.clients import Client
from flexray.data.skew import measure


def client(name: str, train: list[int], labels: dict[str, int]) -> Client:
    return Client(name, np.array(train), np.arange(2), np.arange(2), 0, labels)


def test_one_client_of_one_label_and_one_of_two():
    """a: 4 x; b: 2 x, 2 y. All: 6/8 x, 2/8 y. a: 1 label, ½(|1 − ¾| + |0 − ¼|) = ¼; b: 2 labels, ½(¼ + ¼) = ¼."""
    skew = measure([client("a", [0, 1, 2, 3], {"x": 4}), client("b", [4, 5, 6, 7], {"x": 2, "y": 2})])
    assert skew.effective == pytest.approx((1, 2)) and skew.distance == pytest.approx((0.25, 0.25))
    assert (skew.labels, skew.rows, skew.held_by_several) == (2, 8, 0)


def test_uneven_labels_count_by_their_entropy():
    """Shares ¾ and ¼: exp(¾ ln 4/3 + ¼ ln 4) = 4 / 3^¾ = 1.755."""
    (effective,) = measure([client("a", [0, 1, 2, 3], {"x": 3, "y": 1})]).effective or ()
    assert effective == pytest.approx(4 / 3**0.75) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


def test_rows_of_several_clients_and_no_labels():
    """Row 1 is drawn twice by a alone, row 2 by both."""
    skew = measure([client("a", [0, 1, 1, 2], {}), client("b", [2, 3], {})])
    assert (skew.effective, skew.distance, skew.labels, skew.rows, skew.held_by_several) == (None, None, 0, 4, 1)
