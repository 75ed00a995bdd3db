"""ε against the closed form of the Gaussian mechanism, and the library as a user would call it."""

from math import inf, log, sqrt

import dp_accounting
import pytest
from dp_accounting import rdp

from flexray.errors import ConfigError
from flexray.sections_privacy import Dp
from flexray.sim.privacy.accountant import epsilon, multiplier_for, replaces

ORDERS = rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS


def of_gaussian(z: float, times: int, delta: float) -> float:
    """min over α of T·α/(2z²) + log((α−1)/α) − (log δ + log α)/(α−1): Mironov 2017, and Canonne et al. 2020, proposition 12."""
    return min(times * a / (2 * z**2) + log((a - 1) / a) - (log(delta) + log(a)) / (a - 1) for a in ORDERS)


@pytest.mark.parametrize(("z", "times"), [(1.0, 1), (1.0, 7), (4.0, 20)])
def test_everybody_in_every_round_is_the_plain_gaussian_mechanism(z, times):
    dp = Dp(where="central", noise_multiplier=z)
    assert epsilon(dp, 50, 50, times) == pytest.approx(of_gaussian(z, times, 1e-5), rel=1e-9)


def test_a_client_that_may_be_replaced_needs_twice_the_noise():
    fixed, poisson = (Dp(where="central", noise_multiplier=2.0, sampling=s) for s in ("fixed", "poisson"))
    assert epsilon(fixed, 9, 9, 3) == pytest.approx(of_gaussian(1.0, 3, 1e-5), rel=1e-9)
    assert epsilon(fixed, 9, 9, 3) > epsilon(poisson, 9, 9, 3)
    assert replaces(fixed) and not replaces(poisson)


def test_what_a_client_sends_is_not_hidden_by_sampling():
    dp = Dp(where="local", noise_multiplier=6.0)
    assert replaces(dp)
    assert epsilon(dp, 1000, 10, 4) == pytest.approx(of_gaussian(3.0, 4, 1e-5), rel=1e-9)


def test_sampling_by_coins_is_the_librarys_poisson_sampling():
    accountant = rdp.RdpAccountant()
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.1)), 100)
    assert epsilon(Dp(where="central", noise_multiplier=1.1), 1000, 10, 100) == accountant.get_epsilon(1e-5)


def test_a_fixed_number_of_clients_has_its_own_accountant():
    accountant = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    event = dp_accounting.SampledWithoutReplacementDpEvent(1000, 10, dp_accounting.GaussianDpEvent(1.0))
    accountant.compose(event, 50)
    assert epsilon(Dp(where="central", noise_multiplier=2.0, sampling="fixed"), 1000, 10, 50) == accountant.get_epsilon(1e-5)


def test_privacy_loss_distributions_are_tighter():
    """Of one Gaussian mechanism they give the exact ε: δ = Φ(1/(2z) − εz) − e^ε·Φ(−1/(2z) − εz), Balle and Wang 2018."""
    from scipy.stats import norm

    rdp_, pld = (Dp(where="central", noise_multiplier=1.5, accountant=a) for a in ("rdp", "pld"))
    e = epsilon(pld, 5, 5, 1)
    z = 1.5
    delta = norm.cdf(1 / (2 * z) - e * z) - 2.718281828459045**e * norm.cdf(-1 / (2 * z) - e * z)
    assert delta == pytest.approx(1e-5, rel=1e-2)
    assert e < epsilon(rdp_, 5, 5, 1)


def test_nothing_released_costs_nothing_and_no_noise_everything():
    assert epsilon(Dp(where="central"), 9, 3, 0) == 0
    assert epsilon(Dp(where="central", noise_multiplier=0), 9, 3, 1) == inf


def test_rounds_add_up_slower_than_one_by_one():
    dp = Dp(where="central", noise_multiplier=4.0)
    assert epsilon(dp, 9, 9, 1) < epsilon(dp, 9, 9, 16) < 16 * epsilon(dp, 9, 9, 1)
    assert epsilon(dp, 9, 9, 16) == pytest.approx(of_gaussian(4 / sqrt(16), 1, 1e-5), rel=1e-9)


@pytest.mark.parametrize(
    ("cohort", "more"),
    [(20, {}), (100, {"sampling": "fixed"}), (20, {"where": "local"}), (100, {"accountant": "pld"})],
    ids=["poisson", "fixed", "local", "pld"],
)
def test_the_noise_for_an_epsilon_spends_it_and_no_more(cohort, more):
    told = {"where": "central"} | more
    z = multiplier_for(Dp(**told, epsilon=3.0), 100, cohort, 10)
    assert 2.98 < epsilon(Dp(**told, noise_multiplier=z), 100, cohort, 10) <= 3.0


def test_an_epsilon_beyond_all_noise_asks_for_the_least_and_one_below_it_is_refused():
    assert multiplier_for(Dp(where="central", epsilon=1e6), 10, 10, 2) == 0.05
    with pytest.raises(ConfigError, match=r"privacy.dp.epsilon: expected .*, got 0.0001; raise it"):
        multiplier_for(Dp(where="central", epsilon=1e-4, accountant="pld"), 10, 10, 2)
