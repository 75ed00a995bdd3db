"""Local by hand, and against a plain loop: nothing travels."""

import pytest

from flexray.algorithm import Payload
from flexray.algorithms.local import Local
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, vector_of

PARTS = ("lora", "expert", "gate")


def test_two_rounds_by_hand():
    # The parts add up; a step of rate ¼ moves each by a quarter of what is left. Client 0: 4 left, 1 each; 1 left: 1.25 each.
    # Client 1 only takes part in round 0: 8 left, 2 each.
    f, method = by_hand(rate=0.25, parts=PARTS, joint=True), Local()
    f.played(method, [(0, 1), (0,)])
    for part in PARTS:
        assert_close([f.served(method, k, part) for k in (0, 1)], [[1.25], [2]])


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    f = at_random(PARTS, joint=True)
    f.played(Local(), cohorts)
    for k in range(4):
        mine = [f.start[part] for part in PARTS]
        for r in (r for r, cohort in enumerate(cohorts) if k in cohort):
            for _ in range(f.steps):
                g = f.rates[r] * f.curvature["lora"][k] * (sum(mine) - f.targets["lora"][k])
                mine = [w - g for w in mine]
        assert_close([vector_of(f.mine[k].weights, part) for part in PARTS], mine)


def test_nothing_travels():
    method, f = Local(), by_hand(parts=PARTS)
    shapes = {f"{part}/x/a": (1,) for part in PARTS}
    assert method.shared == () and method.up(shapes) == method.down(shapes, 2) == Payload({}, {})
    f.played(method, [(0, 1)])
    assert f.state.sent.weights == {} and f.state.sent.aux == {}
    assert method.common(f.trainer(0, 0), f.state.sent, f.mine[0]) == {}


def test_defaults():
    assert_documented(Local)
