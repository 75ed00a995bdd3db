"""FedRep by hand, and against a plain loop; its body and head add up to what the loss sees."""

import numpy as np
import pytest

from flexray.algorithms.fedrep import FedRep
from flexray.config import Experiment
from tests.algorithms.plain import COHORTS, EVERYBODY, assert_close, assert_documented, at_random, by_hand, refusal, vector_of

PARTS = ("lora", "expert", "gate")


def test_two_rounds_by_hand():
    # Four steps of rate ¼: two on the head (two numbers, so half of what is left goes), two on the body (a quarter).
    # Client 0: 4 left: head 1, 1; 2 left: 1.5, 1.5; 1 left: θ_0 = 0.25; 0.75 left: 0.4375. Client 1: twice that, 3, 3 and 0.875.
    # θ = ¼·0.4375 + ¾·0.875 = 0.765625.
    # Client 0: 4 − 0.765625 − 3 = 0.234375 left: head 1.55859375; 0.1171875: 1.587890625; 0.05859375 left:
    # θ_0 = 0.7802734375; 0.0439453125 left: 0.791259765625.
    # Client 1: 8 − 0.765625 − 6 = 1.234375 left: 3.30859375; 0.6171875: 3.462890625; 0.30859375 left:
    # θ_1 = 0.8427734375; 0.2314453125 left: 0.900634765625. θ = ¼·θ_0 + ¾·θ_1 = 0.873291015625.
    f, method = by_hand(steps=4, rate=0.25, parts=PARTS, joint=True), FedRep()
    assert_close(f.played(method, [(0, 1)] * 2), [[0.765625], [0.873291015625]])
    for part in ("expert", "gate"):
        assert_close([f.served(method, k, part) for k in (0, 1)], [[1.587890625], [3.462890625]])


@pytest.mark.parametrize("cohorts", [EVERYBODY, COHORTS])
def test_as_a_plain_loop(cohorts):
    """Six steps, of which round(0.7 · 6) = 4 on the head."""
    f = at_random(PARTS, steps=6, joint=True)
    h, t, theta, after = f.curvature["lora"], f.targets["lora"], f.start["lora"], []
    head = {k: (f.start["expert"], f.start["gate"]) for k in range(4)}
    for r, cohort in enumerate(cohorts):
        bodies = []
        for k in cohort:
            body, (expert, gate) = theta, head[k]
            for _ in range(4):
                g = f.rates[r] * h[k] * (body + expert + gate - t[k])
                expert, gate = expert - g, gate - g
            for _ in range(2):
                body = body - f.rates[r] * h[k] * (body + expert + gate - t[k])
            bodies.append(body)
            head[k] = expert, gate
        theta = np.average(bodies, axis=0, weights=[f.rows[k] for k in cohort])
        after.append(theta)
    assert_close(f.played(FedRep(head=0.7), cohorts), after)
    for i, part in enumerate(("expert", "gate")):
        assert_close([vector_of(f.mine[k].weights, part) for k in range(4)], [head[k][i] for k in range(4)])


def test_head_and_body_take_batches_of_their_own():
    f = by_hand(steps=5, parts=PARTS, joint=True)
    trainer, sent = f.trainer(0, 0), f.open(FedRep()).sent
    sent = type(sent)({n: t[None] for n, t in sent.weights.items()})
    FedRep(head=0.4).client(trainer, sent, FedRep().start(trainer, sent))
    head, body = trainer.calls
    assert (head["train"], head["steps"], head["stream"]) == ({"expert", "gate"}, 2, 0)
    assert (body["train"], body["steps"], body["stream"]) == ({"lora"}, 3, 1)


def test_defaults():
    assert_documented(FedRep, head=0.5)


def test_refusals():
    assert "algorithm.head: expected a share that leaves steps (of 4) for both, got 1.0" in refusal(
        "fedrep", {"train": {"steps": 4}}, head=1
    )
    assert "algorithm.head: expected a share" in refusal("fedrep", {"train": {"steps": 4}}, head=0.1)
    assert "algorithm.gate.mode: expected a mode in which the head is in use, got 'off'" in refusal(
        "fedrep", gate={"mode": "off"}
    )
    Experiment(algorithm={"name": "fedrep", "head": 0.5}, train={"steps": 2})
