"""Server optimizers and robust rules: by hand, against plain implementations, and against clients that go astray."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from flexray import server
from flexray.config import Experiment
from flexray.errors import ConfigError, RunError
from flexray.server import Aggregate
from flexray.state import ServerState, Update

ROBUST = [Aggregate("median"), Aggregate("trimmed_mean", trim=0.3), Aggregate("krum", faulty=2)]


def update(*values: float) -> Update:
    """Two tensors: the first number, and the others."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return Update({"lora/x/a": numbers[:1], "lora/x/b": numbers[1:]})


def numbers(u: Update) -> list[float]:
    return [x for name in sorted(u.weights) for x in u.weights[name].flatten().tolist()]


def test_adaptive_by_hand():
    # θ = 1, mean 3: Δ = 2. m = ½·4 + ½·2 = 3; v = 7 + 2 = 9 by a rule v + Δ; θ = 1 + 2·3/(3 + 1) = 2.5.
    one = {"w": torch.tensor([1.0])}
    state = ServerState(Update(one), {"m/w": torch.tensor([4.0]), "v/w": torch.tensor([7.0])})
    after = server.adaptive(state, Update({"w": torch.tensor([3.0])}), lambda v, d: v + d, 2.0, 0.5, 1.0)
    assert after.sent.weights["w"].item() == 2.5
    assert {name: t.item() for name, t in after.kept.items()} == {"m/w": 3, "v/w": 9}


def test_adaptive_starts_without_momentum_and_with_tau_squared():
    state = server.opened(update(1, 2), 0.5)
    assert [t.tolist() for _, t in sorted(state.kept.items())] == [[0], [0], [0.25], [0.25]]
    assert state.sent is not None and numbers(state.sent) == [1, 2]


def test_where_nothing_changes_nothing_moves():
    state = server.opened(update(1, 2), 1e-3)
    assert numbers(server.adaptive(state, state.sent, lambda v, d: v + d * d, 1e-3, 0.9, 1e-3).sent) == [1, 2]


def test_direction_and_step():
    # Δ = 5 − 2 = 3; θ + change = 2 + 1; auxiliary state is the mean's, not the old.
    state = ServerState(Update({"w": torch.tensor(2.0)}, {"c": torch.tensor(8.0)}))
    mean = Update({"w": torch.tensor(5.0)}, {"c": torch.tensor(9.0)})
    assert server.direction(state, mean) == {"w": 3}
    after = server.step(state, mean, {"v": torch.tensor(4.0)}, {"w": torch.tensor(1.0)})
    assert (after.sent.weights["w"], after.sent.aux["c"], after.kept["v"]) == (3, 9, 4)


def test_median_by_hand():
    # Of 1, 9, 2 the middle is 2; of 1, 9, 2, 4 the middle two are 2 and 4. Every number has a median of its own.
    assert numbers(Aggregate("median").combine([update(1, 5), update(9, 0), update(2, 7)])) == [2, 5]
    assert numbers(Aggregate("median").combine([update(v, -v) for v in (1, 9, 2, 4)])) == [3, -3]
    assert numbers(Aggregate("median").combine([update(7, 8)])) == [7, 8]


def test_trimmed_mean_by_hand():
    # Five clients, trim 0.2: one off at either end. 1 2 3 4 100 → (2 + 3 + 4)/3 = 3; −50 1 2 3 6 → 2.
    updates = [update(a, b) for a, b in ((100, 1), (1, 2), (3, 3), (2, 6), (4, -50))]
    assert numbers(Aggregate("trimmed_mean", trim=0.2).combine(updates)) == [3, 2]


def test_krum_by_hand():
    # On a line at 0, 1, 3, 4, 90; faulty = 1, so 5 − 1 − 2 = 2 nearest count. Sums of squares: 0: 1 + 9 = 10; 1: 1 + 4 = 5;
    # 3: 1 + 4 = 5; 4: 1 + 9 = 10; 90: far. Of 1 and 3 the earlier one.
    points = [update(0, 0), update(1, 0), update(3, 0), update(4, 0), update(90, 0)]
    assert numbers(Aggregate("krum").combine(points)) == [1, 0]
    # All tensors count: with 1's second number at 5, its distances are 26 and 29, those of 3 are 1 and 9 (from 4 and 0).
    points[1] = update(1, 5)
    assert numbers(Aggregate("krum").combine(points)) == [3, 0]


def random_updates(n: int) -> tuple[np.ndarray, list[Update]]:
    values = np.random.default_rng(n).normal(size=(n, 9))
    return values, [update(*v) for v in values]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10])
def test_median_as_numpys(n):
    values, updates = random_updates(n)
    np.testing.assert_allclose(numbers(Aggregate("median").combine(updates)), np.median(values, 0), rtol=1e-14)


@pytest.mark.parametrize(("n", "trim"), [(3, 0.4), (5, 0.2), (10, 0.3), (7, 0.49), (100, 0.29)])
def test_trimmed_mean_as_scipys(n, trim):
    values, updates = random_updates(n)
    wanted = trim_mean(values, trim + 1e-9, axis=0)  # 0.29 · 100 is 28.999… in floating point
    np.testing.assert_allclose(numbers(Aggregate("trimmed_mean", trim=trim).combine(updates)), wanted, rtol=1e-12)


@pytest.mark.parametrize(("n", "faulty"), [(3, 0), (5, 1), (6, 1), (9, 3), (12, 2)])
def test_krum_as_a_plain_loop(n, faulty):
    values, updates = random_updates(n)
    scores = []
    for i in range(n):
        distances = sorted(float(((values[i] - values[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(distances[: n - faulty - 2]))
    np.testing.assert_array_equal(numbers(Aggregate("krum", faulty=faulty).combine(updates)), values[scores.index(min(scores))])


@pytest.mark.parametrize("rule", ROBUST, ids=lambda a: a.rule)
@pytest.mark.parametrize("wild", [1e9, -1e9, float("inf"), float("nan")])
def test_two_of_seven_wild_clients_move_no_robust_rule_far(rule, wild):
    """The result lies within what the five honest clients sent; the mean goes as far as the wild ones like."""
    values, updates = random_updates(7)
    updates[0] = update(*[wild] * 9)
    updates[3] = update(*[wild] * 4, *[-wild / 2] * 5)
    honest = values[[1, 2, 4, 5, 6]]
    got = np.array(numbers(rule.combine(updates)))
    assert (got >= honest.min(0)).all() and (got <= honest.max(0)).all()
    with np.errstate(invalid="ignore"):
        mean = np.mean([numbers(u) for u in updates], 0)
    assert not (np.abs(mean) < 1e6).any()


@pytest.mark.parametrize("rule", ROBUST, ids=lambda a: a.rule)
def test_the_order_of_clients_plays_no_part(rule):
    _, updates = random_updates(7)
    np.testing.assert_allclose(numbers(rule.combine(updates)), numbers(rule.combine(updates[::-1])), rtol=1e-14)


@pytest.mark.parametrize("rule", ROBUST, ids=lambda a: a.rule)
def test_the_same_of_everybody_is_that(rule):
    assert numbers(rule.combine([update(0.25, -3, 7)] * 7)) == [0.25, -3, 7]


def test_auxiliary_state_is_combined_too_and_krum_takes_it_from_its_winner():
    updates = [Update(update(v, v).weights, {"c/x": torch.tensor([10.0 * v])}) for v in (0, 1, 2, 3, 50)]
    assert Aggregate("median").combine(updates).aux["c/x"].item() == 20
    assert Aggregate("trimmed_mean").combine(updates).aux["c/x"].item() == 20
    won = Aggregate("krum").combine(updates)
    assert won.aux["c/x"].item() == 10 * won.weights["lora/x/a"].item()


def test_whole_numbers_stay_whole():
    """Which expert a shared graft was cut from is the same at every client."""
    updates = [Update({"expert/x/index": torch.tensor([3]), "expert/x/up": torch.tensor([float(v)])}) for v in range(5)]
    for rule in (Aggregate("median"), Aggregate("trimmed_mean"), Aggregate("krum")):
        got = rule.combine(updates).weights["expert/x/index"]
        assert got.tolist() == [3] and got.dtype == torch.int64


def test_only_the_mean_needs_no_single_updates():
    assert [Aggregate(rule).each for rule in ("mean", "median", "trimmed_mean", "krum")] == [False, True, True, True]


def refusal(clients: int | None = 8, cohort: int | float | None = None, **aggregate) -> str:
    with pytest.raises(ConfigError) as e:
        Experiment(algorithm={"name": "fedavg", "aggregate": aggregate}, clients=clients, cohort=cohort)
    return str(e.value)


def test_too_few_clients_for_krum_are_refused():
    assert "algorithm.aggregate.rule: expected at least 5 clients in a round (2·faulty + 3) for krum, got 4" in refusal(
        4, rule="krum"
    )
    assert "at least 7 clients" in refusal(8, 6, rule="krum", faulty=2)
    assert "got 4; raise clients or cohort" in refusal(8, 0.5, rule="krum"), "the cohort counts, not the population"
    Experiment(algorithm={"name": "fedavg", "aggregate": {"rule": "krum"}}, clients=10, cohort=0.5)


def test_a_trim_that_leaves_out_nobody_is_refused():
    said = refusal(4, rule="trimmed_mean", trim=0.2)
    assert "algorithm.aggregate.trim: expected at least 1/4, to leave out one of 4 clients, got 0.2" in said
    Experiment(algorithm={"name": "fedavg", "aggregate": {"rule": "trimmed_mean", "trim": 0.25}}, clients=4)


def test_values_out_of_range_are_refused():
    assert "algorithm.aggregate.trim: expected more than 0 and less than 0.5, got 0.5" in refusal(rule="trimmed_mean", trim=0.5)
    assert "algorithm.aggregate.faulty: expected at least 0, got -1" in refusal(rule="krum", faulty=-1)
    assert "algorithm.aggregate.rule" in refusal(rule="mode")


def test_settings_of_another_rule_are_refused():
    assert "algorithm.aggregate.trim: expected none with `aggregate.rule: median`, got 0.3" in refusal(rule="median", trim=0.3)
    assert "algorithm.aggregate.faulty: expected none with `aggregate.rule: mean`, got 2" in refusal(faulty=2)


def test_too_few_clients_that_only_the_data_tells_stop_the_run():
    x = Experiment(algorithm={"name": "fedavg", "aggregate": {"rule": "krum"}}, clients=None)
    with pytest.raises(RunError, match=r"algorithm\.aggregate\.rule: expected at least 5 clients"):
        x.algorithm.combine([update(1, 2)] * 4, [0.25] * 4)


def test_momentum_and_adaptive_problems_name_their_keys():
    assert [p.split(":")[0] for p in server.momentum_problems(0, "beta", 1)] == ["lr", "beta"]
    assert [p.split(":")[0] for p in server.adaptive_problems(0, -1, {"beta1": 1, "beta2": -0.1})] == [
        "lr",
        "tau",
        "beta1",
        "beta2",
    ]
    assert server.momentum_problems(0.7, "beta", 0) == server.adaptive_problems(1e-3, 1e-3, {"beta1": 0}) == ()


def test_a_robust_fedavg_is_not_led_astray_over_rounds():
    """Six clients drawn to 1, one that always sends −1000: median, trimmed mean and krum all get there, the mean does not."""

    def end(rule: Aggregate) -> float:
        theta, seen = 0.0, [0.0]
        for _ in range(20):
            sent = [update(theta + (1 - theta) / 2, 0)] * 6 + [update(-1000, 0)]
            theta = numbers(rule.combine(sent))[0] if rule.each else sum(numbers(u)[0] for u in sent) / 7
            seen.append(theta)
        assert not rule.each or all(a <= b for a, b in pairwise(seen))
        return theta

    assert all(end(rule) == pytest.approx(1, abs=1e-5) for rule in ROBUST)
    assert end(Aggregate()) < -100
