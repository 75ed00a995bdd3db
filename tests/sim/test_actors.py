"""What the driver tells, and how often."""

from hypothesis import given
from hypothesis import strategies as st

from flexray.sim import actors
from flexray.sim.actors import seldom
from flexray.sim.events import Evaluated, Progress, Started


def step(clients: int, loss: float = 1.0) -> Progress:
    return Progress(0, clients, 99, loss, 10 * clients)


DONE = Evaluated(0, 1, {}, 0.0)


def test_progress_that_follows_soon_is_told_together_and_before_anything_else():
    """(1 · 1 + 3 · 5) / 4 = 4"""
    events = [Started(0, 1.0), step(1, 1.0), step(3, 5.0), DONE, step(2), step(4)]
    assert [*seldom(iter(events), quiet=99)] == [
        Started(0, 1.0),
        Progress(0, 4, 99, 4.0, 40),
        DONE,
        Progress(0, 6, 99, 1.0, 60),
    ]


def test_progress_that_follows_late_is_told_at_once(monkeypatch):
    """At seconds 1, 1.05, 1.15, 1.2 and 1.4, with a tenth to be quiet: the second is told with the third, the fourth with the fifth."""
    clock = iter([1.0, 1.0, 1.05, 1.15, 1.15, 1.2, 1.4, 1.4])
    monkeypatch.setattr(actors, "perf_counter", lambda: next(clock))
    told = seldom(iter([step(1), step(2), step(3), step(4), step(5)]), quiet=0.1)
    assert [e.clients for e in told if isinstance(e, Progress)] == [1, 5, 9]


@given(st.lists(st.one_of(st.integers(1, 9).map(step), st.just(DONE)), max_size=20), st.sampled_from([0.0, 99.0]))
def test_all_progress_is_told_whatever_comes_when(events, quiet):
    """As many clients between any two other events; and everything at once without quiet."""

    def sums(told) -> list[int]:
        found = [0]
        for event in told:
            if isinstance(event, Progress):
                found[-1] += event.clients
            else:
                found.append(0)
        return found

    told = [*seldom(iter(events), quiet)]
    assert sums(told) == sums(events)
    if not quiet:
        assert told == events
