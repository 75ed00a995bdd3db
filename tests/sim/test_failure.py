"""The policy: what follows when a client fails, and for how long it may take."""

import pytest

from flexray.errors import RunError
from flexray.sections import Faults
from flexray.sim.failure import Failed, Tries, Verdict, decide, patience

NAMES = [f"c{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("suspects", "attempts", "retries", "policy", "verdict"),
    [
        (1, 1, 2, "fail", Verdict.AGAIN),
        (1, 2, 2, "fail", Verdict.AGAIN),
        (1, 3, 2, "fail", Verdict.FAIL),
        (1, 3, 2, "skip", Verdict.LEAVE_OUT),
        (4, 2, 2, "skip", Verdict.AGAIN),
        (4, 3, 2, "skip", Verdict.APART),  # one of four fails: first find out who
        (4, 3, 2, "fail", Verdict.APART),
        (1, 1, 0, "fail", Verdict.FAIL),
        (1, 1, 0, "skip", Verdict.LEAVE_OUT),
        (2, 1, 0, "skip", Verdict.APART),
    ],
)
def test_what_follows(suspects, attempts, retries, policy, verdict):
    assert decide(suspects, attempts, Faults(retries=retries, on_failure=policy)) is verdict


@pytest.mark.parametrize(
    ("setting", "slowest", "tokens", "seconds"),
    [
        (None, 1.0, 10, None),
        (7.5, 1.0, 10, 7.5),
        ("auto", 0.0, 10, 86400.0),  # nobody is done yet
        ("auto", 0.01, 10, 600.0),  # 50 · 0.01 · 10 = 5 is less than ten minutes
        ("auto", 2.0, 10, 1000.0),  # 50 · 2 · 10
    ],
)
def test_how_long_a_client_may_take(setting, slowest, tokens, seconds):
    assert patience(Faults(client_seconds=setting), slowest, tokens) == seconds


def test_a_client_alone_is_tried_again_and_then_ends_the_run_which_says_who_and_how_to_go_on():
    tries = Tries(Faults(retries=1), NAMES, 3, many=4)
    assert not tries.failed(Failed((2,), "ValueError: x", leaf=0), "training").left_out
    with pytest.raises(
        RunError, match=r"(?s)^round 3, client c2: ValueError: x \(failed 2 times in training\)\n.*on_failure: skip"
    ):
        tries.failed(Failed((2,), "ValueError: x", leaf=0), "training")


def test_of_a_group_each_is_tried_alone_and_who_fails_is_left_out():
    """Three fail together, then c1 alone; the others stay, each alone; a group that nobody suspects stays together."""
    tries = Tries(Faults(retries=0, on_failure="skip"), NAMES, 0, many=6)
    tries.did((3, 4, 5), "training")
    assert not tries.failed(Failed((0, 1, 2), "oh"), "training").left_out
    assert tries.seated([(0, 1, 2), (3, 4)], "training") == ((0,), (1,), (2,), (3, 4))
    out = tries.failed(Failed((1,), "oh"), "training")
    assert out.left_out and out.clients == (1,)
    assert tries.seated([(0, 1, 2), (3, 4)], "training") == ((0,), (2,), (3, 4))
    assert tries.seated([(0, 1, 2)], "scoring") == ((0, 1, 2),)  # that is another matter


def test_who_was_well_in_between_is_under_suspicion_no_more():
    tries = Tries(Faults(retries=1), NAMES, 0, many=6)
    tries.failed(Failed((0,), "oh"), "training")
    tries.did((0,), "training")
    assert tries.failed(Failed((0,), "oh"), "training").attempts == 1


def test_if_all_fail_nobody_is_left_out_one_by_one():
    """Both fail once; the first that fails too often shows that it is not about clients."""
    tries = Tries(Faults(retries=1, on_failure="skip"), NAMES, 2, many=2)
    tries.failed(Failed((0,), "TypeError: y"), "training")
    tries.failed(Failed((1,), "TypeError: y"), "training")
    with pytest.raises(RunError, match=r"round 2: every client fails, client c0: TypeError: y"):
        tries.failed(Failed((0,), "TypeError: y"), "training")


def test_dead_actors_are_counted_whoever_is_to_blame():
    tries = Tries(Faults(restarts=2), NAMES, 1)
    assert tries.died(Failed((), "killed", "died"), "training").clients == ()
    assert tries.died(Failed((4,), "killed", "died"), "scoring").attempts == 1
    with pytest.raises(
        RunError, match=r"(?s)round 1: 3 client actors died, .*restarts: 2.*while it was training client c4, c5: killed"
    ):
        tries.died(Failed((4, 5), "killed", "died"), "training")
