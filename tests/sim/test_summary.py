"""What clients' numbers come to, by hand."""

import pytest

from flexray.metric import Number
from flexray.sim.summary import jain, worst_tenth


def test_the_worst_tenth_is_on_the_side_that_the_number_says():
    values = [float(i) for i in range(1, 21)]  # 20 clients: the worst two
    assert worst_tenth(values, Number("loss", less=True)) == 19.5
    assert worst_tenth(values, Number("hits")) == 1.5
    assert worst_tenth(values[:3], Number("hits")) == 1.0  # at least one
    assert worst_tenth(values[:11], Number("hits")) == 1.5  # a tenth of 11, rounded up: two


def test_jains_index():
    assert jain([2.0, 2.0, 2.0]) == 1.0
    assert jain([5.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([1.0, 3.0]) == pytest.approx(16 / (2 * 10))  # (1 + 3)² / (2 · (1 + 9))
    assert jain([0.0, 0.0]) == 1.0
