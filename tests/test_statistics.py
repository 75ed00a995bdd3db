"""Resampling and tests, against distributions that can be written down."""

from itertools import product

import numpy as np
import pytest

from flexray.statistics import Held, bootstrap, difference, holm, scores

MEAN = {"mean": lambda sums: sums[..., 0] / sums[..., 1]}
BOTH = ("clients", "rows")


def held(*values: tuple[float, ...], rows: list[int] | None = None, weights: list[float] | None = None) -> Held:
    """A client whose rows have one value per method, each of weight 1 unless said otherwise."""
    of_rows = np.array(values, float)
    w = np.ones(len(of_rows)) if weights is None else np.array(weights)
    counts = np.stack([of_rows * w[:, None], np.broadcast_to(w[:, None], of_rows.shape)], -1)
    return Held(np.arange(len(of_rows)) if rows is None else np.array(rows), counts)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def shares(draws: np.ndarray) -> dict[float, float]:
    """How often each value is drawn."""
    values, times = np.unique(draws.round(9), return_counts=True)
    return dict(zip(values.tolist(), (times / len(draws)).tolist(), strict=True))


def test_a_score_is_the_mean_over_clients_of_each_ones_own_ratio():
    # client 0: (1·1 + 5·3) / 4 = 4; client 1: 2; mean 3. With all rows in one pot it would be (1 + 15 + 2) / 5 = 3.6
    scored = [[held((1.0,), (5.0,), weights=[1, 3]), held((2.0,), rows=[9])]]
    assert scores(scored, MEAN["mean"]).tolist() == [[3.0]]


def test_rows_of_one_client():
    # Two rows, 0 and 2, drawn twice: (0,0), (0,2), (2,0), (2,2) → means 0, 1, 1, 2
    draws = bootstrap([[held((0.0,), (2.0,))]], MEAN, 20_000, ("rows",), rng())["mean"]
    assert draws.shape == (20_000, 1, 1)
    assert shares(draws[:, 0, 0]) == pytest.approx({0.0: 0.25, 1.0: 0.5, 2.0: 0.25}, abs=0.01)


def test_clients_alone():
    # Clients 1, 2, 6, drawn thrice with their rows as they are: every one of the 27 triples as often
    clients = [held((value,), rows=[i]) for i, value in enumerate((1.0, 2.0, 6.0))]
    draws = bootstrap([clients], MEAN, 50_000, ("clients",), rng())["mean"]
    expected: dict[float, float] = {}
    for triple in product((1, 2, 6), repeat=3):
        expected[round(sum(triple) / 3, 9)] = expected.get(round(sum(triple) / 3, 9), 0) + 1 / 27
    assert shares(draws[:, 0, 0]) == pytest.approx(expected, abs=0.01)


def test_rows_within_clients_and_every_draw_of_a_client_anew():
    # One client (rows 0, 2) drawn twice in a resample of two draws rows anew each time: with a second client that is the
    # same, the mean of two independent means: 0, ½, 1, 1½, 2 with 1, 4, 6, 4, 1 sixteenths
    clients = [held((0.0,), (2.0,), rows=[0, 1]), held((0.0,), (2.0,), rows=[2, 3])]
    draws = bootstrap([clients], MEAN, 40_000, BOTH, rng())["mean"]
    assert shares(draws[:, 0, 0]) == pytest.approx({0: 1 / 16, 0.5: 4 / 16, 1: 6 / 16, 1.5: 4 / 16, 2: 1 / 16}, abs=0.01)


def test_the_mean_is_that_of_a_slow_plain_bootstrap():
    values = np.random.default_rng(1)
    clients = [held(*values.normal(size=(n, 1)), rows=list(range(100 * n, 101 * n))) for n in (3, 7, 20)]
    draws = bootstrap([clients], MEAN, 20_000, BOTH, rng())["mean"][:, 0, 0]
    slow, plain = [], np.random.default_rng(2)
    for _ in range(4000):
        chosen = [clients[c].counts_NMQ[:, 0, 0] for c in plain.integers(3, size=3)]
        slow.append(np.mean([np.mean(rows[plain.integers(len(rows), size=len(rows))]) for rows in chosen]))
    assert draws.mean() == pytest.approx(np.mean(slow), abs=0.03)
    assert draws.std() == pytest.approx(np.std(slow), rel=0.05)
    assert np.quantile(draws, 0.1) == pytest.approx(np.quantile(slow, 0.1), abs=0.05)


def test_all_methods_are_drawn_alike():
    """A method that is better by ½ in every row is so in every resample, however hard the rows are."""
    hard = np.random.default_rng(3).normal(size=40) * 100
    draws = bootstrap([[held(*zip(hard, hard - 0.5, strict=True))]], MEAN, 500, BOTH, rng())["mean"]
    assert np.allclose(draws[..., 0] - draws[..., 1], 0.5)


def seeds_of(values: list[list[float]], rows: list[list[int]]) -> list[list[Held]]:
    """One client per seed, with these values and rows."""
    return [[held(*((v,) for v in of), rows=r)] for of, r in zip(values, rows, strict=True)]


def test_rows_that_all_seeds_score_count_once():
    same = bootstrap(seeds_of([[0, 2], [0, 2]], [[0, 1], [0, 1]]), MEAN, 2000, ("rows",), rng())["mean"]
    assert np.array_equal(same[:, 0], same[:, 1])


def test_rows_that_no_two_seeds_share_are_drawn_apart():
    apart = bootstrap(seeds_of([[0, 2], [0, 2]], [[0, 1], [2, 3]]), MEAN, 20_000, ("rows",), rng())["mean"]
    assert abs(np.corrcoef(apart[:, 0, 0], apart[:, 1, 0])[0, 1]) < 0.03


def test_a_row_that_is_dealt_to_others_by_another_seed_has_one_weight():
    """Seed 0 deals rows 0, 1 to one client and 2, 3 to the other, seed 1 crosswise: the mean over all is the same."""
    values = {0: 0.0, 1: 5.0, 2: 1.0, 3: 7.0}
    deals = ([[0, 1], [2, 3]], [[3, 1], [0, 2]])
    scored = [[held(*((values[r],) for r in rows), rows=rows) for rows in deal] for deal in deals]
    draws = bootstrap(scored, {"sum": lambda sums: sums[..., 0]}, 3000, ("rows",), rng())["sum"]
    assert np.allclose(draws[:, 0], draws[:, 1])
    assert draws[:, 0, 0].mean() == pytest.approx(13 / 2, rel=0.05)  # Σ values over 2 clients, weights 1 on average
    assert draws[:, 0, 0].std() > 1


def test_a_question_that_all_clients_are_asked_has_one_weight():
    clients = [held((0.0,), (1.0,), rows=[-1, -2]), held((0.0,), (1.0,), rows=[-1, -2])]
    draws = bootstrap([clients], MEAN, 20_000, ("rows",), rng())["mean"][:, 0, 0]
    # w₂ / (w₁ + w₂) of two exponential weights is uniform: sd 1/√12; two independent clients would have 1/√24
    assert draws.std() == pytest.approx(12**-0.5, rel=0.03)


def test_a_method_that_was_not_run_with_a_seed_leaves_the_others_alone():
    whole = seeds_of([[0, 2], [1, 4]], [[0, 1], [0, 1]])
    gap = [[Held(h.rows_N, np.concatenate([h.counts_NMQ, h.counts_NMQ * (np.nan if s else 1)], 1)) for h in clients]
           for s, clients in enumerate(whole)]  # fmt: skip
    draws = bootstrap(gap, MEAN, 500, BOTH, rng())["mean"]
    assert np.array_equal(draws[..., 0], bootstrap(whole, MEAN, 500, BOTH, rng())["mean"][..., 0])
    assert np.isnan(draws[:, 1, 1]).all()
    assert np.isfinite(draws[:, 0, 1]).all()


def test_a_number_of_nothing_is_left_out():
    """A row in which nothing was counted may be all that is drawn: 0 / 0."""
    scored = [[held((3.0,), (0.0,), weights=[1, 0])]]
    draws = bootstrap(scored, MEAN, 4000, ("rows",), rng())["mean"]
    assert np.isnan(draws).mean() == pytest.approx(0.25, abs=0.03)
    d = difference(np.array([3.0]), np.array([0.0]), draws[..., 0], np.zeros((4000, 1)), 0.05, BOTH, rng())
    assert (d.value, d.low, d.high) == (3.0, 3.0, 3.0)


def test_memory_bounds_what_is_drawn_at_once(monkeypatch):
    monkeypatch.setattr("flexray.statistics.CELLS", 10)
    draws = bootstrap([[held((0.0,), (2.0,))]], MEAN, 2000, ("rows",), rng())["mean"]
    assert shares(draws[:, 0, 0]) == pytest.approx({0.0: 0.25, 1.0: 0.5, 2.0: 0.25}, abs=0.04)


# differences


def test_a_difference_its_interval_and_its_p():
    # Draws of a − b: −1, 0, 1, …, 17 (19 of them), so 2 are at most 0 → p = 2 · (2 + 1) / (19 + 1) = 0.3
    a_BS, b_BS = np.arange(-1.0, 18)[:, None] + 5, np.full((19, 1), 5.0)
    d = difference(np.array([13.0]), np.array([5.0]), a_BS, b_BS, 0.2, BOTH, rng())
    assert (d.value, d.p) == (8.0, 0.3)
    assert (d.low, d.high) == pytest.approx((0.8, 15.2))  # −1 + 18 · 0.1, −1 + 18 · 0.9


def test_p_is_two_sided_never_zero_and_1_where_nothing_differs():
    def p(draws):
        return difference(
            np.ones(1), np.zeros(1), np.array(draws, float)[:, None], np.zeros((len(draws), 1)), 0.05, BOTH, rng()
        ).p

    assert p([1] * 99) == p([-1] * 99) == 2 / 100
    assert p([0] * 99) == 1.0
    assert p([-1] * 50 + [1] * 49) == 1.0  # 2 · 50 / 100


def test_seeds_are_averaged_and_only_those_that_both_have():
    a, b = np.array([1.0, 5.0, np.nan]), np.array([0.0, 1.0, 7.0])
    draws = np.ones((10, 1)) * a, np.ones((10, 1)) * b
    d = difference(a, b, *draws, 0.05, BOTH, rng())
    assert (d.value, d.low, d.high) == (2.5, 2.5, 2.5)  # (1 + 4) / 2


def test_seeds_may_be_drawn_too():
    # Differences 1 and 3 of two seeds: drawn twice, means 1, 2, 3
    a, b = np.array([1.0, 3.0]), np.zeros(2)
    d = difference(a, b, np.ones((5000, 1)) * a, np.zeros((5000, 2)), 0.05, ("seeds",), rng())
    assert (d.value, d.low, d.high) == (2.0, 1.0, 3.0)


def test_holm():
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1: 0.03, 0.06, 0.04 → never below a smaller one's: 0.06
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# does the interval hold what it promises


def simulated(random: np.random.Generator, seeds: int, clients: int, rows: int, spread: float, design: str) -> list[list[Held]]:
    """Two methods without a difference but for chance: clients differ by `spread`, rows by 1."""
    noise, effect = random.normal(size=clients * rows), random.normal(0, spread, clients)
    scored = []
    for seed in range(seeds):
        numbers = np.arange(clients * rows)
        if design == "dealt anew":
            numbers = random.permutation(numbers)
        if design != "same":
            effect = random.normal(0, spread, clients)
        if design == "apart":
            noise = random.normal(size=clients * rows)
        of = numbers.reshape(clients, rows)
        offset = seed * 10**6 if design == "apart" else 0
        scored.append(
            [
                held(*zip(np.zeros(rows), noise[of[c]] + effect[c], strict=True), rows=list(of[c] + offset))
                for c in range(clients)
            ]
        )
    return scored


@pytest.mark.slow
@pytest.mark.parametrize("design", ["same", "apart", "dealt anew"])
@pytest.mark.parametrize(("clients", "spread", "least", "most"), [(10, 0.0, 0.95, 1.0), (10, 0.3, 0.9, 0.99), (10, 1.0, 0.86, 0.97),
                                                                   (4, 1.0, 0.72, 0.95), (30, 1.0, 0.9, 0.98)])  # fmt: skip
def test_coverage(design, clients, spread, least, most):
    """95 % intervals, 300 times each: on the safe side where rows are what varies, too narrow with very few clients."""
    random, within = np.random.default_rng(5), 0
    for _ in range(300):
        scored = simulated(random, 3, clients, 25, spread, design)
        point, draws = scores(scored, MEAN["mean"]), bootstrap(scored, MEAN, 400, BOTH, random)["mean"]
        d = difference(point[:, 1], point[:, 0], draws[..., 1], draws[..., 0], 0.05, BOTH, random)
        within += d.low <= 0 <= d.high
    assert least <= within / 300 <= most


@pytest.mark.slow
@pytest.mark.parametrize("rows", [25, 100])
def test_coverage_of_rows_alone(rows):
    """With `over: [rows]` and clients as they are, the interval is for the clients' true mean difference."""
    random, within, effect = np.random.default_rng(6), 0, np.array([1.0, -2.0, 0.5, 4.0])
    for _ in range(400):
        clients = [held(*zip(np.zeros(rows), e + random.normal(size=rows), strict=True), rows=list(range(c * rows, (c + 1) * rows)))
                   for c, e in enumerate(effect)]  # fmt: skip
        point, draws = scores([clients], MEAN["mean"]), bootstrap([clients], MEAN, 400, ("rows",), random)["mean"]
        d = difference(point[:, 1], point[:, 0], draws[..., 1], draws[..., 0], 0.05, ("rows",), random)
        within += d.low <= effect.mean() <= d.high
    assert 0.91 <= within / 400 <= 0.98
