"""Central by hand, and against a plain loop: one trainee whose loss is that of all rows."""

import numpy as np

from flexray.algorithm import Payload
from flexray.algorithms.central import Central
from tests.algorithms.plain import Federation, assert_close, assert_documented, at_random


def pooled(f: Federation) -> Federation:
    """The one trainee: Σ p_k ½h_k(w − t_k)² is, but for a constant, ½H(w − T)² with H = Σ p_k h_k and T = Σ p_k h_k t_k / H."""
    p = np.array(f.rows)[:, None] / sum(f.rows)
    h = f.curvature.get("lora", np.ones_like(f.targets["lora"]))
    both = (p * h).sum(0, keepdims=True), (p * h * f.targets["lora"]).sum(0, keepdims=True)
    return Federation({"lora": both[1] / both[0]}, (sum(f.rows),), f.rates, f.steps, f.start, {"lora": both[0]})


def test_two_rounds_by_hand():
    # One row is drawn to 4 and three to 8: together to 7. A step of rate ½ goes half the way: 0 → 3.5 → 5.25.
    f = Federation({"lora": np.array([[4.0], [8.0]])}, (1, 3), (0.5,) * 2, 1, {"lora": np.zeros(1)})
    assert_close(pooled(f).played(Central(), [(0,)] * 2), [[3.5], [5.25]])


def test_as_plain_descent_on_all_rows():
    f, after = at_random(), []
    theta, p = f.start["lora"], np.array(f.rows) / sum(f.rows)
    for r in range(5):
        for _ in range(f.steps):
            theta = theta - f.rates[r] * sum(p[k] * f.gradient(k, theta) for k in range(4))
        after.append(theta)
    assert_close(pooled(f).played(Central(), [(0,)] * 5), after)


def test_rows_are_pooled_and_all_is_shared():
    assert Central.pooled and Central().private == ()
    assert Central().up({"lora/x/a": (2,)}) == Payload({"lora/x/a": (2,)})


def test_defaults():
    assert_documented(Central)
