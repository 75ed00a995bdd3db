"""The loop over a round's tasks, with a crew that needs no processes: whoever dies when, every leaf is summed exactly once."""

from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.errors import RunError
from flexray.sections import Faults
from flexray.sim.crews import Died
from flexray.sim.failure import Failed, Tries, Trouble
from flexray.sim.merging import Merging
from flexray.sim.queues import Queues
from flexray.sim.redo import Heard
from flexray.sim.spread import Spread


class Sums:
    """Calls that wait at actors; each actor does them in their order, whenever `draw` says so, or dies before, amid or after one."""

    def __init__(self, actors: int, data, deaths: int):
        self.lives, self.data, self.deaths = [0] * actors, data, deaths
        self.numbers = count()
        self.queues: list[list[tuple]] = [[] for _ in range(actors)]
        self.sums: list[set] = [set() for _ in range(actors)]
        self.rests: set = set()  # leaves whose clients' state is at rest
        self.unwritten: list[set] = [set() for _ in range(actors)]
        self.over: dict[int, Any] = {}
        self.trained = 0
        self.dead: set[tuple[int, int]] = set()  # places, and which of their processes
        self.opening: dict[int, int] = {}
        self.nobody: list[tuple[int, int]] = []  # places to which a process may come, or never, and the calls that wait for it

    def call(self, a: int, what: str, given=None) -> int:
        assert a not in self.opening or self.opening[a] in self.over, "asked of a place where nobody is"
        number = next(self.numbers)
        if (a, self.lives[a]) in self.dead:
            self.over[number] = Died(a, self.lives[a], "killed")
        else:
            self.queues[a].append((number, what, given, self.lives[a]))
        return number

    def wait(self, calls, seconds):
        while not (ready := [c for c in calls if c in self.over]):
            busy = [a for a, q in enumerate(self.queues) if q]
            if self.nobody and (not busy or self.data.draw(st.booleans())):
                self.over[self.nobody.pop(0)[1]] = None
            else:
                self._step(self.data.draw(st.sampled_from(busy)))
        return self.data.draw(st.sampled_from(ready))

    def get(self, call):
        result = self.over[call]
        if isinstance(result, Died):
            raise Died(result.actor, result.life, result.why)
        return result

    def replace(self, dead):
        assert self.lives[dead.actor] == dead.life
        self._die(dead.actor)
        self.lives[dead.actor] += 1
        if self.data.draw(st.booleans()):
            self.vacate(dead.actor)

    def vacate(self, a: int) -> None:
        """Nobody is there for now."""
        self.opening[a] = next(self.numbers)
        self.nobody.append((a, self.opening[a]))

    def stop(self, actor):
        raise AssertionError

    def _die(self, a: int) -> None:
        for number, *_ in self.queues[a]:
            self.over[number] = Died(a, self.lives[a], "killed")
        self.queues[a], self.sums[a], self.unwritten[a] = [], set(), set()
        self.dead.add((a, self.lives[a]))

    def _step(self, a: int) -> None:
        """The next call of an actor, which may die before it, after it was done but not told, or later on."""
        number, what, given, life = self.queues[a][0]
        if what == "absorb" and given not in self.over:  # it waits for what it is to absorb
            giver = next(b for b, q in enumerate(self.queues) if any(c[0] == given for c in q))
            return self._step(giver)
        fate = self.data.draw(st.sampled_from(["well"] * 6 + ["before", "after"])) if self.deaths else "well"
        if fate != "well":
            self.deaths -= 1
        if fate != "before":
            self.queues[a].pop(0)
            self.over[number] = (
                self._do(a, what, given) if fate == "well" or self.data.draw(st.booleans()) else Died(a, life, "k")
            )
        if fate != "well":
            self._die(a)

    def _do(self, a: int, what: str, given):
        if what == "task":
            self.trained += 1
            assert not self.sums[a] & {*given}, "a leaf that is there is added again"
            self.sums[a] |= {*given}
            self.unwritten[a] |= {*given}
            return given
        if what == "give":
            self.rests |= self.unwritten[a]
            self.unwritten[a] = set()
            sums, self.sums[a] = self.sums[a], set()
            return [sums] if sums else []
        sums = self.over[given]
        if isinstance(sums, Died):
            return sums
        for s in sums:
            assert not self.sums[a] & s
            self.sums[a] |= s
        return None


class Policy:
    defers = False

    def __init__(self, restarts: int = 99):
        self.tries = Tries(Faults(restarts=restarts, retries=99), [], 0)

    def heard(self, task, report) -> Heard:
        return Heard(task)

    def again(self, task):
        return (task,), ()

    def died(self, clients, why, kind, at) -> Trouble:
        return self.tries.died(Failed((), why, "died"), "training")


def spread_over(crew: Sums, tasks, among: bool, policy: Policy, bound: bool = False) -> Spread:
    nodes = [crew.data.draw(st.sampled_from("ab")) for _ in crew.lives]
    own = [[task for i, task in enumerate(tasks) if i % len(crew.lives) == a] for a in range(len(crew.lives))]
    return Spread(
        crew, Queues((), own, bound), policy, lambda a, task, _: (crew.call(a, "task", task), None),
        Merging(nodes, among), give=lambda a: crew.call(a, "give"), absorb=lambda a, sums: crew.call(a, "absorb", sums),
    )  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    data=st.data(), actors=st.integers(1, 4), tasks=st.integers(0, 8), among=st.booleans(), bound=st.booleans(), deaths=st.integers(0, 6)
)  # fmt: skip
def test_every_leaf_reaches_the_driver_exactly_once_whoever_dies_when(data, actors, tasks, among, bound, deaths):
    """And at the end all that clients own is at rest. Each task is told at least once. Some places are vacant at first, or once somebody
    has died, and it takes long, or for ever, until somebody is there again."""
    crew, every = Sums(actors, data, deaths), [(2 * i, 2 * i + 1) for i in range(tasks)]
    for a in range(actors):
        if data.draw(st.booleans()):
            crew.vacate(a)
    came, told = [], set()
    for what in spread_over(crew, every, among, Policy(), bound).run():
        if isinstance(what, list):
            came += [leaf for s in what for leaf in s]
        elif isinstance(what, tuple):
            told.add(what[0])
    assert sorted(came) == list(range(2 * tasks))
    assert told == {*every} and crew.rests >= {*came}
    if deaths == crew.deaths:
        assert crew.trained == tasks


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_deaths_beyond_the_limit_end_the_run(data):
    crew = Sums(2, data, 0)
    crew.get = lambda call: (_ for _ in ()).throw(Died(0, crew.lives[0], "killed"))  # whatever is called
    crew._do = lambda *_: None
    try:
        list(spread_over(crew, [(0, 1), (2, 3)], True, Policy(restarts=3)).run())
    except RunError as e:
        assert "4 client actors died" in str(e)
    else:
        raise AssertionError("it went on")
