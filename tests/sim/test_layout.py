"""From what is asked and what there is to who sits where."""

import pytest

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sim.layout import arrange

CPU4 = {"CPU": 4.0}
GPU2 = {"CPU": 16.0, "GPU": 2.0}


def place(there, cohort, **settings):
    x = arrange(Experiment(**settings), there, cohort)
    return x.placement, x.actors, x.seats, x.device, x.gpu


def test_one_actor_per_client_while_they_fit():
    assert place(CPU4, 3) == ("one_per_client", 3, 1, "cpu", 0.0)


def test_more_clients_than_slots_take_turns():
    assert place(CPU4, 8) == ("pooled", 4, 1, "cpu", 0.0)


def test_a_share_of_a_cpu_makes_more_slots():
    assert place(CPU4, 8, resources={"cpu_per_client": 0.5}) == ("one_per_client", 8, 1, "cpu", 0.0)


def test_one_per_client_may_be_asked_for_with_fewer_slots():
    assert place(CPU4, 8, placement="one_per_client") == ("one_per_client", 4, 1, "cpu", 0.0)


def test_several_seats_make_a_pool():
    assert place(CPU4, 4, seats=2) == ("pooled", 2, 2, "cpu", 0.0)


def test_a_gpu_is_pooled_with_seats():
    assert place(GPU2, 8) == ("pooled", 2, 4, "cuda", 1.0)
    assert place(GPU2, 100) == ("pooled", 2, 8, "cuda", 1.0)


def test_fractions_of_a_gpu_do_not_spill_over():
    # 0.4 fits twice into each of two GPUs: 4 actors, not 5
    got = place(GPU2, 8, placement="one_per_client", resources={"gpu_per_client": 0.4})
    assert got == ("one_per_client", 4, 1, "cuda", 0.4)


def test_a_gpu_may_be_left_alone():
    assert place(GPU2, 3, resources={"gpu_per_client": 0}) == ("one_per_client", 3, 1, "cpu", 0.0)


def test_seats_never_exceed_the_cohort():
    assert place(CPU4, 2, placement="pooled", seats=8) == ("pooled", 1, 2, "cpu", 0.0)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"resources": {"gpu_per_client": 3}}, "gpu_per_client"), ({"resources": {"cpu_per_client": 99}}, "cpu_per_client")],
)
def test_more_than_there_is_is_refused(settings, key):
    with pytest.raises(ConfigError, match=rf"resources.{key}: expected at most"):
        arrange(Experiment(**settings), GPU2, 4)
