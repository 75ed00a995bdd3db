"""Scoring against one row at a time; seats against one by one; what is scored, and when."""

import json

import numpy as np
import pytest
import torch

from flexray.errors import ConfigError
from flexray.metrics.rouge import _score
from flexray.models.seats import Seats
from flexray.sim.host import ClientHost
from flexray.sim.local import kit
from flexray.sim.local.evaluator import Scorer
from flexray.sim.local.lm import collate, respond
from flexray.sim.planning.plan import prepare
from flexray.state import seat

CPU4 = {"CPU": 4.0}
QUESTIONS = [
    {"question": "What is 2 + 3?", "choices": ["5", "six or so", "11"], "answer": 0},
    {"question": "What is the opposite of hot?", "choices": ["a house", "cold"], "answer": 1},
]
ALL = ["loss", "exact_match", "token_accuracy", "rouge", "choice"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return str(path)


@pytest.fixture(scope="module")
def host(small, tmp_path_factory, file):
    """Of three clients with 6 test rows each, of which 4 are generated for."""
    values = {"metrics": ALL, "probe": file, "batch": 4, "generate_rows": 4, "max_new_tokens": 8}
    x = small(evaluation=values, data={"max_test_rows": 6}, seats=3)
    return ClientHost(prepare(x, CPU4, tmp_path_factory.mktemp("private"))[0])


@pytest.fixture(scope="module")
def served(host):
    """The group's weights after a little training, [K, …], and what they score."""
    trainer = host._trainer((0, 1, 2), 0)
    down = host.sent.widened(host.open(), (0, 1, 2))
    weights = trainer.fit(down.weights | trainer.fresh(host.algorithm.private), steps=2)
    return weights, host.scorer.score(trainer.seats, (0, 1, 2), {"base": {}, "personal": weights})


def test_counts_are_those_of_one_row_at_a_time(host, served):
    weights, marks = served
    client = host.job.clients[1]
    found = marks[1]["personal"]
    assert found.rows.tolist() == [*client.test.tolist(), -1, -2]  # the two questions stand behind the rows
    seats = Seats(host.backbone, host.algorithm.parts, 1)
    seats.put({name: t[None] for name, t in seat(weights, 1).items()})
    with torch.no_grad(), seats.using():
        slow = [plain(host, row) for row in host.corpus.rows(client.test)]
        asked = [likely(host, question) for question in QUESTIONS]
    seats.detach()
    for key, values in zip(("nll", "tokens", "exact", "hits"), zip(*slow, strict=True), strict=True):
        np.testing.assert_allclose(found.counts[key], [*values, 0, 0], rtol=2e-4, atol=1e-4)
    right = [best == question["answer"] for best, question in zip(asked, QUESTIONS, strict=True)]
    assert found.counts["right_by_sum"].tolist() == [0] * 6 + right
    assert found.counts["questions"].tolist() == [0] * 6 + [1, 1]
    assert found.sums()["tokens"] == sum(row[1] for row in slow)


def plain(host, row) -> tuple[float, ...]:
    """A row's loss, response tokens, whether all are hit, and hits."""
    response = respond(host.backbone, collate([[row]]))
    tokens, hits = int(response.counted.sum()), int(response.hit.sum())
    return response.nll.sum().item(), tokens, float(hits == tokens), hits


def likely(host, question) -> int:
    """The choice with the smallest summed loss, each in a row of its own."""
    tokenizer = host.scorer.kit.tokenizer
    asked = f"{ALPACA}{question['question']}\n\n### Response:"
    losses = []
    for choice in question["choices"]:
        prompt, answer = tokenizer.encode([asked, choice])
        row = (np.array([*prompt, *answer], np.int32), len(prompt))
        losses.append(respond(host.backbone, collate([[row]])).nll.sum().item())
    return int(np.argmin(losses))


ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
)


def test_texts_are_what_the_frozen_model_generates_by_itself(host, served):
    """With transformers' own `generate`, row by row."""
    counts, client, tokenizer = served[1][2]["base"].counts, host.job.clients[2], host.scorer.kit.tokenizer
    asked = [i for i in range(6) if counts["generated"][i]]
    assert len(asked) == 4
    for i, (tokens, start) in enumerate(host.corpus.rows(client.test)):
        if i not in asked:
            assert counts["rougeL"][i] == counts["rouge1"][i] == 0
            continue
        ids = torch.from_numpy(tokens[None, :start].astype(np.int64))
        out = host.backbone.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        text, reference = tokenizer.decode([out[0, start:].tolist(), tokens[start:].tolist()])
        assert [counts[key][i] for key in ("rouge1", "rouge2", "rougeL", "generated")] == list(_score(text, reference))


def test_seats_in_one_forward_are_one_by_one(host, served):
    weights, marks = served
    seats = Seats(host.backbone, host.algorithm.parts, 1)
    for k in range(3):
        own = {name: t[None] for name, t in seat(weights, k).items()}
        (alone,) = host.scorer.score(seats, (k,), {"base": {}, "personal": own})
        for view in ("base", "personal"):
            assert alone[view].rows.tolist() == marks[k][view].rows.tolist()
            for key, values in alone[view].counts.items():
                near = 1e-4 if key == "nll" else 0
                np.testing.assert_allclose(values, marks[k][view].counts[key], rtol=near, atol=near)
    seats.detach()


def test_a_view_of_the_same_tensors_is_not_scored_again(host, served):
    trainer = host._trainer((0, 1, 2), 0)
    weights = served[0]
    views = {"shared": dict(weights), "personal": dict(weights)}
    for found in host.scorer.score(trainer.seats, (0, 1, 2), views):
        assert found["shared"] is found["personal"]


def test_valid_rows_may_be_scored_instead(small, tmp_path):
    x = small(evaluation={"split": "valid", "metrics": ["loss"]})
    host = ClientHost(prepare(x, CPU4, tmp_path)[0])
    (found,) = host.evaluate(0, (1,), host.open(), ("base",)).values()
    assert found.marks["base"].rows.tolist() == host.job.clients[1].valid.tolist()


@pytest.mark.parametrize("algorithm", ["fedavg", "ditto", "flex"])
def test_after_the_local_steps_the_client_serves_what_they_gave(small, tmp_path, algorithm):
    """Ditto serves its own copy; the others the shared part as trained, and what is private."""
    x = small(algorithm={"name": algorithm}, evaluation={"when": "after_steps", "metrics": ["loss"]})
    host = ClientHost(prepare(x, CPU4, tmp_path)[0])
    sent = host.open()
    after = host.evaluate(0, (0, 2), sent, ("shared", "personal"))
    trainer, down = host._trainer((0, 2), 0), host.sent.widened(sent, (0, 2))
    up, mine = x.algorithm.client(trainer, down, host._owned((0, 2), 0, trainer, down, None).state)
    wanted = mine.weights if algorithm == "ditto" else up.weights | mine.weights
    views = {"shared": down.weights, "personal": wanted}  # what the server sent has not changed
    by_hand = Scorer(host.job, host.backbone, host.corpus).score(trainer.seats, (0, 2), views)
    for marks, own in zip((found.marks for found in after.values()), by_hand, strict=True):
        for view in views:
            np.testing.assert_array_equal(marks[view].counts["nll"], own[view].counts["nll"])
        assert marks["personal"].sums() != marks["shared"].sums()
    if kept := host.store.load(0, 0):  # as a newcomer: what the steps gave is not kept
        assert not any(torch.equal(t, mine.weights[n][0]) for n, t in kept.weights.items() if n.endswith("/b"))


def test_what_nothing_would_look_at_is_refused(small, tmp_path, file):
    def problems(**evaluation) -> str:
        with pytest.raises(ConfigError) as e:
            prepare(small(evaluation=evaluation), CPU4, tmp_path)
        return str(e.value)

    assert problems(metrics=["choice"]).startswith("evaluation.probe: expected a file of questions for the metrics ['choice']")
    assert problems(probe=file).startswith("evaluation.probe: expected none without a metric that asks it")
    both = problems(max_new_tokens=5, generate_rows=2).splitlines()
    assert [line.split(":")[0] for line in both] == ["evaluation.max_new_tokens", "evaluation.generate_rows"]


def test_a_kit_is_made_once_and_only_for_metrics_that_need_it(small, host, file):
    x = small(evaluation={"metrics": ["loss"]})
    tokenizer = host.scorer.kit.tokenizer
    cache = x.storage.cache
    assert kit.prepare(x, tokenizer, cache) is None
    generating = kit.prepare(small(evaluation={"metrics": ["rouge"]}), tokenizer, cache)
    assert generating and kit.load(generating).probe is None
    assert kit.load(generating).tokenizer.encode(["two words"]) == tokenizer.encode(["two words"])
    x = small(evaluation={"metrics": ["choice"], "probe": file})
    assert kit.prepare(x, tokenizer, cache) == kit.prepare(x, tokenizer, cache) != generating


def test_counts_of_one_key_must_be_the_same(small, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import dataclass\nfrom flexray.metric import Metric\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(Metric):\n"
        "    def count(self, scored):\n        return {'tokens': scored.tokens * 2}\n\n"
        "    def value(self, counts):\n        return {'mine': counts['tokens']}\n"
    )
    x = small(evaluation={"metrics": ["loss", str(mine)]})
    host = ClientHost(prepare(x, CPU4, tmp_path)[0])
    with pytest.raises(Exception, match=r"evaluation\.metrics: expected other keys for other counts, got 'tokens'"):
        host.evaluate(0, (0,), host.open(), ("base",))
