import pytest

from flexray.report.units import count, duration, many, size, span, spent


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (999, "999"), (999.6, "1.00 k"), (1000, "1.00 k"), (12_345, "12.3 k"), (99_960, "100 k"), (999_999, "1.00 M"),
     (1_234_567, "1.23 M"), (2.5e9, "2.50 G"), (7e12, "7.00 T"), (7e15, "7000 T")],
)  # fmt: skip
def test_count(n, text):
    assert count(n) == text


@pytest.mark.parametrize(("n", "text"), [(0, "0 B"), (98_304, "98.3 KB"), (1_310_000_000, "1.31 GB")])
def test_size(n, text):
    assert size(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 00 s"),
        (65.2, "1 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_many_and_span():
    assert (many(1, "seat"), many(0, "seat"), many(4, "seat")) == ("1 seat", "0 seats", "4 seats")
    assert (span([3, 3]), span([1200, 7])) == ("3", "7–1,200")


def test_what_was_spent_of_privacy_is_told_where_it_is_counted():
    assert spent({}) == ""
    assert spent({"epsilon": 2.306, "clip": 1.0}) == "   ε 2.31"
