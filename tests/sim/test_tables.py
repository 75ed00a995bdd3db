"""Rows as tables: every column that one of them has, and text where kinds differ."""

from flexray.sim.tables import table

ROWS = [{"a": 1, "b": "x"}, {"a": 2.5, "c": [1]}, {"b": 3}]


def test_columns_of_all_rows():
    assert table(ROWS, "arrow").to_pydict() == {"a": [1.0, 2.5, None], "b": ["x", None, "3"], "c": [None, [1], None]}


def test_the_same_for_pandas():
    assert table(ROWS, "pandas")["b"].tolist()[0] == "x"


def test_no_rows():
    assert table([], "arrow").num_rows == 0
