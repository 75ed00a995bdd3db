"""Settings of privacy and compression that contradict each other, would be ignored, or promise what a method does not keep."""

import pytest

from flexray.config import Experiment
from flexray.errors import ConfigError

DP, MASKS = {"dp": {"where": "central"}}, {"secure_aggregation": {"protocol": "secagg"}}


def told(**settings) -> str:
    with pytest.raises(ConfigError) as e:
        Experiment(**settings)
    return str(e.value)


def test_all_of_it_is_off_at_first():
    x = Experiment()
    assert (x.privacy.dp.where, x.privacy.secure_aggregation.protocol, x.compress.kind) == ("none", "none", "none")


@pytest.mark.parametrize(
    ("privacy", "compress", "words"),
    [
        ({"dp": {"clip": 2.0}}, {},
         "privacy.dp.clip: expected none, as nothing uses it, got 2.0; set privacy.dp.where to central or local"),
        ({"dp": {"adaptive": {"quantile": 0.5}}}, {}, "privacy.dp.adaptive: expected none"),
        ({"dp": {"where": "central", "adaptive": {"count_stddev": 3}}}, {}, "set privacy.dp.adaptive.quantile, 0.5 is usual"),
        ({"secure_aggregation": {"dropout": 0.1}}, {}, "set privacy.secure_aggregation.protocol to secagg"),
        ({}, {"kind": "fp16", "rounding": "nearest"},
         "compress.rounding: expected none, as nothing uses it, got 'nearest'; with `compress.kind: fp16` drop it"),
        ({}, {"keep": 0.1}, "compress.keep: expected none"),
        ({"dp": {"where": "local", "adaptive": {"quantile": 0.5}}}, {},
         "privacy.dp.adaptive.quantile: expected none with `privacy.dp.where: local`, got 0.5"),
        ({"dp": {"where": "central", "delta": 0.2}}, {}, "privacy.dp.delta: expected less than 1/clients = 0.125, got 0.2; 1e-5 is usual"),
        (MASKS, {"kind": "int8"}, "compress.kind: expected none with secure aggregation, got 'int8'; masked numbers are uniform"),
        ({"secure_aggregation": {"protocol": "secagg", "num_shares": 3}}, {}, "num_shares: expected an even number"),
        ({"secure_aggregation": {"protocol": "secagg", "dropout": 0.7}}, {},
         "dropout: expected at most 1 − reconstruction_threshold = 0.5, got 0.7"),
        ({"dp": {"where": "central", "epsilon": 3, "noise_multiplier": 2}}, {},
         "privacy.dp.epsilon: expected none with privacy.dp.noise_multiplier"),
        ({"dp": {"where": "server"}}, {}, "privacy.dp.where: expected none, central or local, got 'server'"),
        ({"dp": {"noise_multiplier": -1}}, {}, "privacy.dp.noise_multiplier: expected"),
        ({}, {"kind": "zip"}, "compress.kind: expected"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_settings_are_told_with_their_mend(privacy, compress, words):
    assert words in told(privacy=privacy, compress=compress)


@pytest.mark.parametrize("what", [DP, MASKS], ids=["dp", "masks"])
@pytest.mark.parametrize(
    ("algorithm", "why"),
    [
        ({"name": "flora"}, "it looks at single updates"),
        ({"name": "fedmoe"}, "it looks at single updates"),
        ({"name": "hetlora"}, "it looks at single updates"),
        ({"name": "fedavg", "aggregate": {"rule": "median"}}, "it looks at single updates"),
        ({"name": "central"}, "all rows in one place tell"),
        ({"name": "cluster_routing"}, "every client tells before the first round"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_methods_that_go_past_the_sum_are_refused(what, algorithm, why):
    assert why in told(privacy=what, algorithm=algorithm)


@pytest.mark.parametrize("more", [{"privacy": DP}, {"compress": {"kind": "int8"}}], ids=str)
def test_fedalt_needs_its_updates_as_they_were(more):
    assert "algorithm.name: expected another method with privacy.dp or compress, got 'fedalt'" in told(
        algorithm={"name": "fedalt"}, **more
    )


def test_the_settings_round_trip():
    x = Experiment(privacy={"dp": {"where": "central", "adaptive": {"quantile": 0.5}}}, compress={"kind": "topk", "keep": 0.1})
    assert Experiment(**x.spec()) == x
