"""A run's time from the cost of a turn and of scoring, by hand."""

import pytest

from flexray.sim.planning.forecast import ROUND_SECONDS, forecast, local_steps
from flexray.sim.planning.measure import Place, Scoring, Turn
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials
from flexray.sim.planning.trial import Measured

MEASURED = Measured({1: Turn(1, step=0.5, fixed=1.0, first=2.0, bytes=0)}, Place(0), Scoring(1, row=0.25, fixed=1.0, later=0.5))


@pytest.fixture
def job(small, tmp_path):
    def make(**changes):
        return prepare(small(**changes), {"CPU": 1.0}, tmp_path, Trials("nothing"))[0]

    return make


def test_rounds_evaluations_and_newcomers_add_up(job):
    found = forecast(job(clients=3, rounds=4, evaluation={"every": 2}, train={"steps": 10}), MEASURED)
    assert found is not None
    assert (found.rounds, found.evaluations, found.start) == (4, 3, 0.0)
    assert found.round == pytest.approx(3 * (1 + 10 * 0.5) + ROUND_SECONDS)
    # four test rows each: 1 + 4 · 0.25 = 2 s a client, half of it once the base is known: 6, 3 and 3 s; and before the first round
    # 2 s for the start of each
    assert found.evaluation == pytest.approx((6 + 3 * 2 + 3 + 3) / 3 + ROUND_SECONDS)
    assert found.newcomers == 3 * 2
    assert found.whole == pytest.approx(6 + 4 * found.round + 3 * found.evaluation)


def test_where_some_clients_are_scored_the_base_is_scored_as_they_come(job):
    found = forecast(job(clients=4, rounds=2, evaluation={"every": 1, "clients": 2}), MEASURED)
    assert found is not None
    # two of four are new: 4 s, and 4 for their starts. Then one more is to be expected, and one known: 2 + 1. At last all, of whom one
    # is new: 2 + 3
    assert found.evaluation == pytest.approx((4 + 4 + 3 + 5) / 3 + ROUND_SECONDS)


def test_who_never_trained_starts_anew_whenever_it_is_scored(job):
    found = forecast(job(clients=4, cohort=2, rounds=1, evaluation={"every": None, "last": 2}), MEASURED)
    assert found is not None
    # two clients that were never scored, 4 s, of whom one is expected to have trained
    assert found.evaluation == pytest.approx(4 + 2 + ROUND_SECONDS)
    assert found.newcomers == 2 * 2


def test_steps_are_each_clients_own_and_one_for_all_where_rows_are_pooled(job):
    rows = [12, 12, 12]
    assert local_steps(job(clients=3, train={"steps": None, "epochs": 1, "batch": 5})) == [-(-n // 5) for n in rows]
    assert local_steps(job(clients=3, cohort=2)) == [2, 2]
    assert local_steps(job(clients=3, algorithm="central")) == [2]


def test_without_a_measurement_there_is_no_forecast(job):
    assert forecast(job(), Measured()) is None
    assert forecast(job(), Measured(MEASURED.turns)) is None
