"""Reports in columns say what single ones said."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.sim.reports import ClientReport, Reports, numbered

A, B, NONE = ({"lora": 8}, {"lora": 8, "c": 4}), ({"lora": 4}, {"lora": 8}), ({}, {})
COSTS = [A, B, NONE, ({"lora": 8}, {"lora": 8, "c": 4})]
"""The last is the first again, in dicts of its own."""


def one(client: int, cost=A, loss: float = 1.0, steps: int = 2, tokens: int = 30, rows: int = 4) -> ClientReport:
    return ClientReport(client, loss, steps, tokens, rows, *cost)


LISTS = st.lists(
    st.builds(
        one, st.integers(0, 99), st.sampled_from(COSTS), st.floats(0, 9), st.integers(0, 9), st.integers(0, 999), st.integers(1, 99)
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(reports=LISTS)
def test_out_of_columns_come_the_single_reports(reports):
    columns = Reports.of(reports)
    assert list(columns) == reports and len(columns) == len(reports)
    assert columns[-1] == reports[-1] and columns[1:] == tuple(reports[1:]) and columns[::-2] == tuple(reports[::-2])
    assert columns.bytes_up == sum(r.bytes_up for r in reports) == sum(sum(r.up.values()) for r in reports)
    assert columns.bytes_down == sum(r.bytes_down for r in reports) == sum(sum(r.down.values()) for r in reports)
    assert len(columns.costs) == len({str(r.up) + str(r.down) for r in reports})


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(LISTS, min_size=1, max_size=5))
def test_joined_they_are_in_client_order(parts):
    joined = Reports.joined([Reports.of(part) for part in parts])
    every = [report for part in parts for report in part]
    assert list(joined) == sorted(every, key=lambda r: r.client)  # of one client, as they came
    assert joined.bytes_up == sum(r.bytes_up for r in every)
    assert len(joined.costs) == len({str(r.up) + str(r.down) for r in every})


def test_costs_by_hand():
    """8 + 8 + 4 up; 12 + 12 + 8 down."""
    columns = Reports.joined([Reports.of([one(2, B), one(0, A)]), Reports.of([one(1, A)])])
    assert columns.client.tolist() == [0, 1, 2]
    assert (columns.bytes_up, columns.bytes_down) == (20, 32)
    assert isinstance(columns, Sequence) and columns[0].tokens == 30 and isinstance(columns[0].steps, int)


def test_equal_costs_have_one_number_whether_they_are_one_object_or_not():
    numbers, costs = numbered([A, A, B, COSTS[3], NONE, B])
    assert numbers.tolist() == [0, 0, 1, 0, 2, 1] and costs == (A, B, NONE)
    numbers, costs = numbered([])
    assert len(numbers) == 0 and costs == () and numbers.dtype == np.int64


def test_of_nobody_there_is_nothing_to_tell():
    nobody = Reports.joined([])
    assert len(nobody) == nobody.bytes_up == nobody.bytes_down == 0 and nobody.client.dtype == np.int64
