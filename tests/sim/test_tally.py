"""What clients did, counted group by group, told in columns."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from flexray.sim.local.trainer import Effort
from flexray.sim.tally import Tally


def did(loss, steps, tokens, *parts: str) -> Any:
    """A trainer, of which only the effort is asked."""
    return SimpleNamespace(effort=Effort(np.array(loss, float), np.array(steps, float), np.array(tokens, float), set(parts)))


def test_groups_are_told_together_in_their_order(bare_job):
    """The loss is the mean over steps: 6/3, 4/2, 5/5."""
    tally = Tally(bare_job([5, 6, 7]))
    tally.add((2, 0), did([6, 4], [3, 2], [30, 20], "lora"), {2: 1, 0: -1})
    tally.add((1,), did([5], [5], [50], "expert"), {0: 1})
    report = tally.report(2.5, 0.5)
    told = [(r.client, r.loss, r.steps, r.tokens, r.rows) for r in report.clients]
    assert told == [(2, 2.0, 3, 30, 7), (0, 2.0, 2, 20, 5), (1, 1.0, 5, 50, 6)]
    assert (report.seconds, report.seconds_private) == (2.5, 0.5)
    assert report.trained == {"lora", "expert"} and report.rests == {2: 1, 0: 1}


def test_everybody_who_sends_everything_has_one_and_the_same_cost(bare_job):
    """Of the 2·3 + 4·2 = 14 numbers four bytes each."""
    tally = Tally(bare_job([5] * 3))
    tally.add((0, 1, 2), did([1] * 3, [1] * 3, [1] * 3), {})
    clients = tally.report(1, 0).clients
    assert clients.costs == (({"lora": 56}, {"lora": 56}),)
    assert clients[0].up is clients[2].up and clients.bytes_up == 3 * 56


def test_clients_of_lower_rank_cost_less(bare_job):
    """HetLoRA with ranks 1 and 2: the first sends 3 + 4 numbers of 14."""
    job = bare_job([5] * 4, algorithm={"name": "hetlora", "lora": {"rank": 2}, "ranks": [1, 2]})
    tally = Tally(job)
    tally.add((0, 1, 2, 3), did([1] * 4, [1] * 4, [1] * 4), {})
    clients = tally.report(1, 0).clients
    cuts = [job.algorithm.cut(job.up.payload, c) for c in range(4)]
    assert [r.bytes_up for r in clients] == [job.up.bytes(cut) for cut in cuts]
    assert len(clients.costs) == len({r.bytes_up for r in clients}) == 2


def test_who_took_no_steps_has_no_loss(bare_job):
    tally = Tally(bare_job([5]))
    tally.add((0,), did([0], [0], [0]), {})
    assert tally.report(1, 0).clients[0].loss == 0


def test_every_slice_is_told_alone(bare_job):
    tally = Tally(bare_job([5, 6]))
    tally.add((0,), did([1], [1], [1], "lora"), {0: 3})
    first = tally.report(1, 0)
    tally.start().add((1,), did([2], [1], [1]), {})
    second = tally.report(1, 0)
    assert [r.client for r in second.clients] == [1] and second.rests == {} and second.trained == frozenset()
    assert [r.client for r in first.clients] == [0] and first.rests == {0: 3} and first.trained == {"lora"}
