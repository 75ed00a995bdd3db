"""SCAFFOLD by hand, and against a plain loop over clients."""

import numpy as np
import pytest

from flexray.algorithm import Payload
from flexray.algorithms.fedavg import FedAvg
from flexray.algorithms.scaffold import Scaffold
from flexray.config import Experiment
from flexray.state import below
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of


def variates(f) -> list[float]:
    """c, c_0 and c_1."""
    return [vector_of(below("c", f.state.sent.aux), "lora")[0], *(vector_of(f.mine[k].memory, "lora")[0] for k in (0, 1))]


def test_option_one_by_hand():
    f = by_hand()
    # Round 0, no correction: 0 → 2 and 4, θ = 3.5. Gradients at 0: c_0 = −4, c_1 = −8; c = ¼·−4 + ¾·−8 = −7.
    assert_close(f.played(Scaffold(), [(0, 1)]), [[3.5]])
    assert variates(f) == [-7, -4, -8]
    # Round 1. Client 0: g − c_0 + c = −0.5 + 4 − 7 = −3.5 → 5.25. Client 1: −4.5 + 8 − 7 = −3.5 → 5.25: both go the same way.
    # c_0⁺ = −0.5, c_1⁺ = −4.5; c = −7 + ¼·3.5 + ¾·3.5 = −3.5.
    assert_close(f.played(Scaffold(), [(0, 1), (0, 1)])[1], [5.25])
    assert variates(f) == [-3.5, -0.5, -4.5]


def test_option_two_by_hand():
    f, method = by_hand(steps=2), Scaffold(variate="steps")
    # Round 0: 0 → 2 → 3 and 0 → 4 → 6; θ = ¼·3 + ¾·6 = 5.25. S·η = 2·½ = 1: c_0 = 0 − 3, c_1 = 0 − 6, c = ¼·−3 + ¾·−6 = −5.25.
    assert_close(f.played(method, [(0, 1)]), [[5.25]])
    assert variates(f) == [-5.25, -3, -6]
    # Round 1. Client 0, correction −c_0 + c = −2.25: 1.25 − 2.25 = −1 → 5.75; 1.75 − 2.25 = −0.5 → 6.
    # Client 1, correction 0.75: −2.75 + 0.75 = −2 → 6.25; −1.75 + 0.75 = −1 → 6.75. θ = ¼·6 + ¾·6.75 = 6.5625.
    # c_0⁺ = −3 + 5.25 + (5.25 − 6) = 1.5; c_1⁺ = −6 + 5.25 + (5.25 − 6.75) = −2.25.
    # c = −5.25 + ¼·(1.5 + 3) + ¾·(−2.25 + 6) = −1.3125.
    assert_close(f.played(method, [(0, 1), (0, 1)])[1], [6.5625])
    assert variates(f) == [-1.3125, 1.5, -2.25]


def test_a_part_of_the_population_moves_c_by_its_share():
    # Client 0 alone: c_0 = −4; c = 0 + (1/2)·(−4 − 0) = −2.
    f = by_hand()
    f.played(Scaffold(), [(0,)])
    assert vector_of(below("c", f.state.sent.aux), "lora").tolist() == [-2]


def plain(f, cohorts, option):
    """Algorithm 1, client by client; means weighted by rows."""
    theta, c, own, after = f.start["lora"].copy(), np.zeros(7), np.zeros((4, 7)), []
    for r, cohort in enumerate(cohorts):
        eta, moved, changed = f.rates[r], np.zeros(7), np.zeros(7)
        for k in cohort:
            h, t = f.curvature["lora"][k], f.targets["lora"][k]
            y = theta.copy()
            for _ in range(f.steps):
                y -= eta * (h * (y - t) - own[k] + c)
            new = h * (theta - t) if option == 1 else own[k] - c + (theta - y) / (f.steps * eta)
            p = f.rows[k] / sum(f.rows[j] for j in cohort)
            moved, changed = moved + p * (y - theta), changed + p * (new - own[k])
            own[k] = new
        theta, c = theta + moved, c + len(cohort) / 4 * changed
        after.append(theta)
    return after, c, own


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
@pytest.mark.parametrize(("variate", "option"), [("gradient", 1), ("steps", 2)])
def test_as_a_plain_loop(cohorts, variate, option):
    f = at_random()
    after, c, own = plain(f, cohorts, option)
    assert_close(f.played(Scaffold(variate=variate), cohorts), after)
    assert_close(vector_of(below("c", f.state.sent.aux), "lora"), c)
    assert_close([vector_of(f.mine[k].memory, "lora") for k in range(4)], own)


@pytest.mark.parametrize("variate", ["gradient", "steps"])
def test_it_finds_the_optimum_where_fedavg_drifts_away_from_it(variate):
    """Curvatures differ, so fedavg's fixed point is not where Σ p_k ∇F_k = 0; SCAFFOLD's is."""
    f = at_random(steps=5)
    f.rates = [0.3] * 90
    p, h, t = np.array(f.rows)[:, None] / sum(f.rows), f.curvature["lora"], f.targets["lora"]
    best = (p * h * t).sum(0) / (p * h).sum(0)
    everybody = [(0, 1, 2, 3)] * 90
    np.testing.assert_allclose(f.played(Scaffold(variate=variate), everybody)[-1], best, atol=1e-6)
    assert abs(f.played(FedAvg(), everybody)[-1] - best).max() > 0.01


def test_variates_travel_both_ways():
    shapes = {"lora/x/a": (2, 3)}
    assert Scaffold().up(shapes) == Scaffold().down(shapes, 2) == Payload(shapes, {"c/lora/x/a": (2, 3)})


def test_the_pass_for_the_variate_takes_batches_of_its_own():
    f, seen = by_hand(), []
    trainer, gradient = f.trainer(0, 0), f.trainer(0, 0).gradient
    setattr(trainer, "gradient", lambda w, **settings: seen.append(settings) or gradient(w))  # noqa: B010
    sent = f.open(Scaffold()).sent
    sent = type(sent)({n: t[None] for n, t in sent.weights.items()}, {n: t[None] for n, t in sent.aux.items()})
    Scaffold().client(trainer, sent, Scaffold().start(trainer, sent))
    assert seen == [{"stream": 1}]


def test_defaults():
    assert_documented(Scaffold, variate="gradient")


def test_the_second_option_is_for_plain_sgd():
    said = refusal("scaffold", {"train": {"optimizer": "adamw"}}, variate="steps")
    assert "algorithm.variate: expected gradient with `train.optimizer: adamw`, got 'steps'" in said and "SGD only" in said
    warm = {"train": {"optimizer": "sgd", "warmup_steps": 2}}
    assert "algorithm.variate: expected gradient with `train.warmup_steps: 2`" in refusal("scaffold", warm, variate="steps")
    Experiment(algorithm={"name": "scaffold", "variate": "steps"}, train={"optimizer": "sgd"})
    Experiment(algorithm={"name": "scaffold"}, train={"optimizer": "adamw"})
