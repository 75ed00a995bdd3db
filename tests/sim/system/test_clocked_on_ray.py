"""The simulated clock with client actors: the same bits as in one process."""

import pytest

from flexray import api
from tests.sim.system.test_clocked_runs import BUFFERED, FEDAVG, QUICK, UNEVEN, told
from tests.test_laws import assert_same, weights

VOID = {**UNEVEN, "over_selection": 1.5, "dropout": 0.5, "deadline": 2.0, "min_updates": 2}
"""Some rounds have nobody to train."""


@pytest.mark.parametrize("system", [pytest.param(VOID, marks=pytest.mark.slow), BUFFERED])
def test_any_number_of_actors_gives_the_same_bits(ray_here, small, tmp_path, system):
    settings = {"rounds": 4, "clients": 4, "algorithm": FEDAVG, "evaluation": QUICK, "seats": 1, "placement": "pooled"}
    x = small(**settings, system=system, **({"cohort": 2} if system is VOID else {}))
    inline = api.simulate(x, tmp_path / "inline")
    resources = x.resources.model_copy(update={"backend": "ray", "cpu_per_client": 2.0, "threads": 1})
    on_ray = api.simulate(x.model_copy(update={"resources": resources}), tmp_path / "ray")
    assert on_ray.summary["actors"] == 2
    assert_same(weights(on_ray.path), weights(inline.path))
    assert repr(told(on_ray)) == repr(told(inline)) and on_ray.turns() == inline.turns()
    assert (on_ray.summary["simulated"]["void_rounds"] > 0) == (system is VOID)
