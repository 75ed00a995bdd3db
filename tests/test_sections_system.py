"""The section `system`: what is said to settings that make no sense, with each other or with the rest."""

import pytest

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sections_system import System

ASYNC = {"mode": "async", "buffer": 2, "latency": 1}


def test_by_default_there_is_no_clock_and_any_setting_starts_it():
    assert not Experiment().system.on
    assert Experiment(system={"latency": 0.1}).system.on and Experiment(system={"dropout": 0.1}).system.on


def test_it_round_trips():
    system = {
        **ASYNC, "tokens_per_second": {"lognormal": [100, 1]}, "diurnal": {"share": {"uniform": [0.2, 0.8]}}, "profiles": "some.csv",
    }  # fmt: skip
    x = Experiment(algorithm="fedavg", system=system)
    assert Experiment(**x.spec()) == x and x.system.tokens_per_second == {"lognormal": (100.0, 1.0)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"system": {"mode": "asink"}}, "system.mode: expected sync or async, got 'asink'; did you mean 'async'?"),
        ({"system": {"mode": "async"}}, "system.buffer: expected a number with `system.mode: async`, got nothing; 10 is usual"),
        ({"system": {"mode": "async", "buffer": 2}}, "system.tokens_per_second: expected a speed with `system.mode: async`"),
        ({"system": {"buffer": 3}}, "system.buffer: expected none with `system.mode: sync`, got 3; drop it"),
        ({"system": {**ASYNC, "over_selection": 1.5}}, "system.over_selection: expected none with `system.mode: async`, got 1.5"),
        ({"system": {**ASYNC, "buffer": 9}}, "system.buffer: expected at most 8 (clients), got 9"),
        ({"system": {**ASYNC, "concurrency": 9}}, "system.concurrency: expected at most 8 (clients), got 9; lower it"),
        ({"system": {**ASYNC, "concurrency": 4}, "cohort": 4}, "system.concurrency: expected none with cohort, which says the same"),
        ({"system": {**ASYNC, "staleness": "constant", "staleness_exponent": 1}}, "expected none with `system.staleness: constant`"),
        ({"system": {"over_selection": 1.5}}, "system.over_selection: expected 1 where all clients take part, got 1.5"),
        ({"system": {"over_selection": 1.5}, "cohort": 8}, "system.over_selection: expected 1 where all clients take part"),
        ({"system": {"over_selection": 0.5}}, "system.over_selection: expected a number of at least 1, got 0.5"),
        ({"system": {"min_updates": 5}, "cohort": 4}, "system.min_updates: expected at most the cohort (4), got 5; lower it"),
        ({"system": {"availability_period": 5}}, "system.availability_period: expected none without system.availability, got 5"),
        ({"system": {"availability": "a.csv", "diurnal": {}}}, "system.diurnal: expected none with system.availability, got both"),
        ({"system": {"dropout": 1.5}}, "system.dropout: expected a share from 0 to 1, got 1.5"),
        ({"system": {"diurnal": {"share": 2}}}, "system.diurnal.share: expected a share from 0 to 1, got 2"),
        ({"system": {"latency": -1}}, "system.latency: expected seconds of at least 0, got -1"),
        ({"system": {"tokens_per_second": {"uniform": [-1, 3]}}}, "system.tokens_per_second: expected a number above 0, got -1"),
        ({"system": {"latency": {"lognormal": [1]}}}, "system.latency: expected lognormal: [median, sigma], got [1.0]"),
        ({"system": {"latency": {"uniform": [3, 1]}}}, "system.latency: expected uniform: [least, most], got [3.0, 1.0]"),
        ({"system": {"latency": {"normal": [3, 1]}}}, "system.latency: expected a number, or one of lognormal: [median, sigma] or"),
        ({"system": {"upload_mbps": {"bernoulli": [0.1, 3]}}}, "expected lognormal, uniform or choice, got bernoulli; that is for"),
        ({"system": {"latency": 1}, "algorithm": "central"}, "system: expected none with central, which has all rows in one place"),
        ({"system": ASYNC, "algorithm": "cluster_routing"}, "system.mode: expected sync with cluster_routing, which needs clusters"),
        ({"system": ASYNC, "algorithm": "flexlora"}, "system.mode: expected sync with flexlora, which needs single updates"),
        ({"system": ASYNC, "algorithm": "fedalt"}, "algorithm.name: expected `system.mode: sync` with fedalt, got 'async'"),
        ({"system": {"dropout": 0.1}, "algorithm": "flora"}, "algorithm.name: expected all clients in every round with flora"),
        ({"cohort": 1, "algorithm": "flora"}, "algorithm.name: expected all clients in every round with flora, got `cohort: 1`"),
    ],
)  # fmt: skip
def test_what_is_said(settings, said):
    with pytest.raises(ConfigError) as e:
        Experiment(**settings)
    assert said in str(e.value)


def test_where_several_types_may_stand_one_line_is_said():
    with pytest.raises(ConfigError) as e:
        Experiment(system={"latency": [1, 2]})
    assert len(e.value.problems) == 1 and e.value.problems[0].startswith("system.latency: expected a number or keys")


def test_a_system_that_loses_nobody_is_known():
    assert not System(latency=1, tokens_per_second=3).loses
    assert System(deadline=1).loses and System(dropout=0.1).loses
