"""From what is asked and what there is to who sits where."""

import pytest

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sim.planning.layout import THREAD_FLOPS, arrange, choose, most_seats, round_seconds
from flexray.sim.planning.measure import Turn

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
    assert place(GPU2, 9) == ("pooled", 2, 4, "cuda", 1.0)
    assert place(GPU2, 100) == ("pooled", 2, 8, "cuda", 1.0)


def test_fractions_of_a_gpu_do_not_spill_over():
    # 0.4 fits twice into each of two GPUs: 4 actors, not 5
    got = place(GPU2, 8, placement="one_per_client", resources={"gpu_per_client": 0.4})
    assert got == ("one_per_client", 4, 1, "cuda", 0.4)


def test_a_gpu_may_be_left_alone():
    assert place(GPU2, 3, resources={"gpu_per_client": 0}) == ("one_per_client", 3, 1, "cpu", 0.0)


def test_seats_that_were_found_are_taken_as_far_as_no_actor_stays_empty():
    assert arrange(Experiment(), CPU4, 8, seats=2).seats == 2
    assert arrange(Experiment(), CPU4, 15, seats=9).seats == 3  # 15 // 4
    assert arrange(Experiment(seats=5), CPU4, 15, seats=9).seats == 5  # asked for
    assert arrange(Experiment(placement="one_per_client"), CPU4, 15, seats=9).seats == 1


def test_inline_has_the_seats_and_threads_that_actors_would_have():
    there, x = CPU4, {"resources": {"backend": "inline"}}
    layout = arrange(Experiment(**x), there, 2)
    assert (layout.actors, layout.threads) == (1, 2)
    assert most_seats(Experiment(**x), there, 8) == most_seats(Experiment(), there, 8) == 2


@pytest.mark.parametrize(
    ("settings", "cohort", "most"),
    [({}, 7, 1), ({}, 8, 2), ({}, 100, 25), ({"seats": 3}, 100, 1), ({"placement": "one_per_client"}, 100, 1),
     ({"algorithm": "central"}, 100, 1)],
)  # fmt: skip
def test_up_to_how_many_seats_there_is_a_choice(settings, cohort, most):
    assert most_seats(Experiment(**settings), CPU4, cohort) == most


@pytest.mark.parametrize(
    ("there", "cohort", "settings", "flops", "threads", "cpu"),
    [
        (CPU4, 8, {}, 1e12, 1, 1.0),  # 4 actors
        (CPU4, 3, {}, 1e12, 1, 1.0),  # 4 CPUs among 3
        (CPU4, 2, {}, 1e12, 2, 2.0),
        (CPU4, 1, {}, 1e12, 4, 4.0),
        (CPU4, 1, {}, 2.5 * THREAD_FLOPS, 2, 2.0),  # small matrices keep two busy
        (CPU4, 1, {}, 1e3, 1, 1.0),
        (CPU4, 8, {"cpu_per_client": 2}, 1e12, 2, 2.0),
        (CPU4, 8, {"cpu_per_client": 0.5}, 1e12, 1, 1.0),
        (CPU4, 1, {"threads": 3}, 1e12, 3, 1.0),  # explicit stays
        ({"CPU": 8.0, "nodes": 2.0}, 3, {}, 1e12, 2, 2.0),  # two actors on a node of 4
        (GPU2, 100, {}, 1e12, 8, 8.0),
    ],
)
def test_threads_leave_no_core_idle_and_none_fought_over(there, cohort, settings, flops, threads, cpu):
    layout = arrange(Experiment(resources=settings), there, cohort, flops=flops)
    assert (layout.threads, layout.cpu) == (threads, cpu)


def line(alone: float, each: float):
    """The cost of a turn: `alone` seconds, and `each` for every seat's step."""
    return lambda seats: Turn(seats, each * seats, alone, 0.0, 0)


def test_a_round_lasts_until_the_last_actor_is_done():
    # five clients of 3 steps on two actors, alone: 3 turns of 1 + 3·2 s at one of them
    assert round_seconds(line(1, 2), [3] * 5, 2, 1) == 21
    # pairs: (1 + 3·4) and then the single (1 + 3·2) at the first
    assert round_seconds(line(1, 2), [3] * 5, 2, 2) == 20
    # a group lasts as long as its longest client
    assert round_seconds(line(1, 2), [3, 5], 1, 2) == 1 + 5 * 4


def test_the_fewest_seats_of_those_nearly_best_are_chosen():
    # 64 clients, one actor, one step: 64/K turns of 10 + K s are 704, 384, 224, 144, 104 s … for K = 1, 2, 4, 8, 16
    seats, gain = choose(line(10, 1), [1] * 64, 1, 16)
    assert (seats, gain) == (16, pytest.approx(704 / 104))
    assert choose(line(0.5, 1), [1] * 64, 1, 16)[0] < 16  # 66, 65, … s: hardly better


def test_a_small_gain_chooses_one_seat():
    assert choose(line(0.1, 1), [1] * 16, 2, 8) == (1, 1.0)  # at most 1.1 / 1.0125


def test_seats_that_leave_an_actor_with_one_turn_more_are_not_chosen():
    # ten clients on four actors: alone 3 turns; in pairs 5 groups, so 2 turns of twice the length
    cost = line(0.2, 1)
    assert choose(cost, [1] * 10, 4, 2) == (1, 1.0)


def test_seats_never_exceed_the_cohort():
    assert place(CPU4, 2, placement="pooled", seats=8) == ("pooled", 1, 2, "cpu", 0.0)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"resources": {"gpu_per_client": 0.5}}, "gpu_per_client"), ({"resources": {"cpu_per_client": 99}}, "cpu_per_client")],
)
def test_more_than_there_is_is_refused(settings, key):
    with pytest.raises(ConfigError, match=rf"resources.{key}: expected at most"):
        arrange(Experiment(**settings), CPU4, 4)


def test_a_client_is_on_one_gpu():
    with pytest.raises(ConfigError, match=r"resources\.gpu_per_client: expected at most 1 \(a client is on one GPU\), got 2"):
        arrange(Experiment(resources={"gpu_per_client": 2}), GPU2, 4)
