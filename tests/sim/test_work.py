"""What there is to do in a round: everybody once, in leaves that know nothing of actors."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexray.sim import work
from flexray.sim.fold import Fold
from flexray.sim.vectors import Vectors
from flexray.sim.work import Scoring, Server, Training, Work
from flexray.state import ServerState, Update

EMPTY = ServerState(Update())
ROWS = st.lists(st.integers(1, 60), min_size=1, max_size=40)
QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPOCH = {"train": {"steps": None, "epochs": 1, "batch": 2}}
"""So that a client's work grows with its rows."""


def server(clusters: int, numbers=()) -> Server:
    return Server((EMPTY,) * clusters, tuple(numbers))


def drawn(data, rows: list[int], clusters: int) -> Server:
    numbers = data.draw(st.lists(st.integers(0, clusters - 1), min_size=len(rows), max_size=len(rows)))
    return server(clusters, numbers)


def trained(tasks) -> Counter[int]:
    return Counter(client for own in tasks for task in own for group in task.groups for client in group)


def leaves(tasks) -> dict[tuple[int, int, int], tuple]:
    """By cluster, size of its sum and number, the groups of each leaf."""
    found = [((task.cluster, task.of, number), groups) for own in tasks for task in own for number, groups in task.leaves]
    assert len(dict(found)) == len(found)
    return dict(found)


@QUIET
@given(
    data=st.data(),
    rows=ROWS,
    seats=st.integers(1, 4),
    clusters=st.integers(1, 3),
    pace=st.sampled_from([1e-4, 0.01, 3.0, float("inf")]),
)
def test_each_client_of_the_cohort_is_in_one_task_and_leaves_know_nothing_of_actors(
    bare_job, data, rows, seats, clusters, pace
):
    there, found, cohort = drawn(data, rows, clusters), [], data.draw(st.integers(1, len(rows)))
    for actors in (1, 2, 3, 7):
        job = bare_job(rows, seats=seats, actors=actors, cohort=cohort, **EPOCH)
        cut = work.slices(job, there, 3)
        tasks = work.training(job, cut, actors, pace)
        assert len(tasks) == actors
        assert trained(tasks) == Counter(job.taking_part(3)) and len(job.taking_part(3)) == cohort
        every = leaves(tasks)
        assert every == {(c, len(own), i): leaf for c, own in enumerate(cut) for i, leaf in enumerate(own)}
        for (cluster, _, _), groups in every.items():
            assert all(there.cluster(client) == cluster and len(group) <= seats for group in groups for client in group)
        found.append(every)
    assert all(every == found[0] for every in found)


@QUIET
@given(data=st.data(), rows=ROWS, seats=st.integers(1, 4), clusters=st.integers(1, 3), actors=st.integers(1, 7))
def test_each_examined_client_is_scored_once_in_all_views(bare_job, data, rows, seats, clusters, actors):
    there, job = drawn(data, rows, clusters), bare_job(rows, seats=seats, actors=actors)
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), unique=True))
    tasks = work.scoring(job, there, chosen, ("shared", "personal"), actors)
    assert Counter(c for task in tasks for group in task.groups for c in group) == Counter(chosen)
    for task in tasks:
        assert task.views == ("shared", "personal") and 0 < len(task.groups) <= work.MOST_SCORED
        assert all(there.cluster(c) == task.cluster and len(group) <= seats for group in task.groups for c in group)


@QUIET
@given(rows=ROWS, actors=st.integers(1, 6))
def test_clients_with_an_actor_each_are_trained_and_scored_at_home(bare_job, rows, actors):
    job = bare_job(rows, actors=actors, placement="one_per_client", **EPOCH)
    tasks = work.training(job, work.slices(job, server(1), 0), actors, 1.0)
    assert trained(tasks) == Counter(range(len(rows)))
    assert all(c % actors == a for a, own in enumerate(tasks) for task in own for group in task.groups for c in group)
    assert all(len(t.groups) == 1 for t in work.scoring(job, server(1), range(len(rows)), ("base",), actors))


def test_the_longest_begin_and_sit_together(bare_job):
    """Two seats, work by rows: 18 and 14 in the first group, then 10 and 8, 4 and 2. Three leaves: dealt to the halves in turn, the
    first and the third in the first half."""
    job = bare_job([2, 18, 8, 14, 4, 10], seats=2, **EPOCH)
    assert work.slices(job, server(1), 0) == [[((1, 3),), ((4, 0),), ((5, 2),)]]
    # of three leaves the first of two actors has two; a long client first
    (first, second) = work.training(job, work.slices(job, server(1), 0), 2, float("inf"))
    assert first == (Training(0, 3, ((0, ((1, 3),)),)), Training(0, 3, ((1, ((4, 0),)),)))
    assert second == (Training(0, 3, ((2, ((5, 2),)),)),)


@pytest.mark.parametrize("actors", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("clients", [5, 16, 40, 128])
def test_an_actor_holds_but_few_sums_at_a_time(bare_job, clients, actors):
    job = bare_job(range(1, clients + 1), actors=actors, **EPOCH)
    for own in work.training(job, work.slices(job, server(1), 0), actors, 1.0):
        fold, most = Fold(clients, Vectors()), 0
        for leaf, _ in (leaf for task in own for leaf in task.leaves):
            fold.add(np.zeros(1, np.float32), leaf, leaf + 1)
            most = max(most, len(fold.places))
        assert most <= work.FEW


@pytest.mark.parametrize(
    ("pace", "sizes"),
    [
        (float("inf"), [4, 2, 1, 1]),  # half of what is left at a time
        (0.01 / 3, [4, 3, 1]),  # three clients take the hundredth of a second that is worth asking for
        (1e-6, [8]),
    ],
)
def test_short_clients_come_in_larger_tasks(bare_job, pace, sizes):
    job = bare_job([4] * 8, actors=1)
    (own,) = work.training(job, work.slices(job, server(1), 0), 1, pace)
    assert [len(task.leaves) for task in own] == sizes


def test_small_clusters_begin_somewhere_else_each(bare_job):
    job, there = bare_job([4] * 3, actors=3), server(3, (0, 1, 2))
    tasks = work.training(job, work.slices(job, there, 0), 3, 1.0)
    assert [[task.cluster for task in own] for own in tasks] == [[0], [1], [2]]


def test_a_cluster_of_which_nobody_is_there_has_no_leaves(bare_job):
    job, there = bare_job([4] * 3), server(2, (1, 1, 1))
    assert [len(own) for own in work.slices(job, there, 0)] == [0, 3]
    assert trained(work.training(job, work.slices(job, there, 0), 2, 1.0)) == Counter((0, 1, 2))
    assert work.scoring(job, there, [], ("base",), 2) == []


def test_a_method_that_pools_all_rows_has_one_trainee(bare_job):
    job = bare_job([4, 5], algorithm={"name": "central"})
    assert work.slices(job, server(1), 0) == [[((2,),)]]


@pytest.mark.parametrize("clusters", [(), (1, 0, 1)])
def test_clusters_have_their_clients(clusters):
    there = server(2, clusters)
    assert there.parted([2, 0, 1]) == (((1,), (2, 0)) if clusters else ((2, 0, 1), ()))
    # two that joined later are in the first
    assert [there.members(i, 5) for i in (0, 1)] == ([3, 2] if clusters else [5, 0])
    assert there.cluster(4) == 0 and server(1).parted([2, 0]) == ((2, 0),)


def test_of_a_round_all_is_known_that_its_actors_need(bare_job):
    job = bare_job([1, 2, 3, 4], actors=2, rounds=3, cohort=2, **EPOCH)
    there = Server((ServerState(Update({n: torch.ones(s) for n, s in job.shapes.items()})),))
    cut, exam = work.slices(job, there, 1), work.scoring(job, there, [0, 3], ("base",), 2)
    done = work.of_round(job, there, 1, cut, exam, {0: 0, 3: -1}, 2, 1.0)
    cohort = job.taking_part(1)
    assert done.rows == (sum(c + 1 for c in cohort),)
    assert [*done.tasks] == [*exam, *(task for own in done.training for task in own)]
    assert done.sent(0).tolist() == [1.0] * 14 and done.clusters == 1
    assert done.owning([(3, 1), (2,)]) == {3: -1} and done.states([(0,), (3,)]) == [(0, 0), (3, -1)]
    later = work.training(job, work.slices(job, there, 2), 2, 1.0)
    assert done.soon == tuple(own[0].groups[0] for own in later)
    for actor in (0, 1):  # only what stays as it is may be read before the round is over
        begins = done.soon[actor]
        assert done.ahead(actor) == [(c, r) for c, r in ((0, 0), (3, -1)) if c in begins and c not in cohort]


@pytest.mark.parametrize(("round", "known"), [(2, {0: 1}), (1, {})])
def test_after_the_last_round_or_where_nobody_owns_anything_nothing_is_read_ahead(bare_job, round, known):
    job = bare_job([1, 2, 3, 4], rounds=3)
    done = work.of_round(job, server(1), round, work.slices(job, server(1), round), (), known, 2, 1.0)
    assert done.soon == () and done.ahead(0) == []


def test_an_exam_has_nothing_to_train(bare_job):
    job = bare_job([1, 2])
    exam = [Scoring(0, ((0, 1),), ("base",))]
    done = work.of_exam(job, server(1), 5, exam, {1: 4})
    assert isinstance(done, Work) and [*done.tasks] == exam and done.ahead(0) == [] and done.training == ()


def test_a_load_is_that_of_the_longest_in_each_group(bare_job):
    job = bare_job([2, 8, 4], **EPOCH)
    one = job.work / np.array([2, 8, 4])
    assert np.allclose(one, one[0])  # an epoch: tokens grow with rows
    assert work._load(job, ((0, 1), (2,))) == pytest.approx((2 * 8 + 4) * one[0])
