"""Before a run: what is chosen and stays chosen, what is refused, and whether what is foretold comes true."""

from time import process_time

import pytest
import yaml

from flexray import api, backend
from flexray.errors import ConfigError
from flexray.sim.events import Evaluated, Progress, RoundDone
from flexray.sim.planning import apart, settle, sizes
from flexray.sim.planning import plan as plans
from flexray.sim.planning.measure import Ask, Place, Turn
from flexray.sim.planning.plan import prepare, resolved
from flexray.sim.planning.settle import Trials

CPU1, CPU4 = {"CPU": 1.0}, {"CPU": 4.0}


class Fake:
    """A runner that counts its calls. A turn takes 1 s of its own, and 1 s a step and seat."""

    def __init__(self, per_seat: float = 0.1, bytes: int = 1 << 20, most: int = 99, why: str = ""):
        self.per_seat, self.bytes, self.most, self.why = per_seat, bytes, most, why
        self.asked: list[tuple[Ask, int]] = []

    def __call__(self, ask: Ask, processes: int) -> list[apart.Found]:
        self.asked.append((ask, processes))
        turns = [Turn(k, 1 + self.per_seat * k, 0.0, 0.0, k * self.bytes) for k in ask.seats if k <= self.most]
        return [[*turns, Place(1000), *([self.why] if self.why else [])]] * processes


def memory(monkeypatch, free: int, all: int) -> None:
    for module in (plans, settle):
        monkeypatch.setattr(module, "free_memory", lambda: (free, all))


@pytest.fixture
def fresh(small, tmp_path):
    """Makes an experiment whose choices nobody remembers: the caches of models and rows are those of all tests."""

    def make(**changes):
        x = small(**changes)
        notes = x.storage.cache / "measured"
        for note in notes.glob("*.json") if notes.exists() else ():
            note.unlink()
        return x

    return make


def test_nothing_is_measured_where_there_is_nothing_to_choose(fresh, tmp_path):
    fake = Fake()
    for changes in ({}, {"seats": 1}, {"seats": 3}, {"placement": "one_per_client"}, {"algorithm": "central"}):
        there = CPU4 if not changes else CPU1
        prepare(fresh(**changes), there, tmp_path, Trials("choices", fake))
    prepare(fresh(), CPU1, tmp_path, Trials("nothing", fake))
    assert not fake.asked


def test_seats_are_chosen_by_the_line_through_two_measured_turns_and_stay(fresh, tmp_path):
    # a turn of K seats takes 2 steps of 1 + 0.1·K seconds: three clients on one CPU take 6.6 s one by one, and together 2.6 s
    fake = Fake()
    x = fresh()
    job, plan = prepare(x, CPU1, tmp_path, Trials("choices", fake))
    assert (job.layout.seats, job.layout.placement, job.layout.actors) == (3, "pooled", 1)
    assert [(ask.seats, ask.whole, n) for ask, n in fake.asked] == [((1, 3), False, 1)]
    assert plan.notes[0] == "seats: 3, by which rounds are 2.54 times as fast as with 1, as measured"
    assert plan.memory.work == pytest.approx(1.05 * 3 * (1 << 20), abs=1)
    assert plan.disk.each == 1000
    other = Fake(per_seat=9.0)  # by this one seat would be best
    assert prepare(x, CPU1, tmp_path, Trials("choices", other))[0].layout.seats == 3
    assert not other.asked
    assert resolved(job).seats == 3 and resolved(job).placement == "pooled" and resolved(job).resources.threads == 1


def test_more_seats_must_be_worth_it(fresh, tmp_path):
    _, plan = prepare(fresh(), CPU1, tmp_path, Trials("choices", Fake(per_seat=9.0)))
    assert plan.layout.seats == 1
    assert plan.notes[0] == "seats: 1, as rounds with more are not a tenth faster, as measured"


def test_seats_that_do_not_fit_are_not_chosen(fresh, tmp_path, monkeypatch):
    # 3 seats of 1 GB each with what is there beside them, 0.4 GB, do not fit into 9/10 of 3 GB; 2 seats do
    memory(monkeypatch, free=3 * 10**9, all=3 * 10**9)
    job, _ = prepare(fresh(), CPU1, tmp_path, Trials("choices", Fake(bytes=10**9)))
    assert job.layout.seats == 2


def test_a_turn_that_fails_is_not_chosen_and_said(fresh, tmp_path):
    _, plan = prepare(fresh(), CPU1, tmp_path, Trials("choices", Fake(most=1, why="it was killed")))
    assert plan.layout.seats == 1
    assert plan.notes[0] == "seats: not chosen by a measurement, as it failed (it was killed)"


def test_a_plan_that_cannot_fit_is_refused_before_anything_is_written(fresh, tmp_path, monkeypatch):
    memory(monkeypatch, free=10**7, all=10**10)
    fake = Fake(bytes=10**8)
    monkeypatch.setattr(apart, "here", fake)
    with pytest.raises(ConfigError, match=r"train\.batch: expected a run that fits into the 9 MB .* lower it"):
        api.simulate(fresh(), tmp_path / "run")
    assert fake.asked  # bounds alone refuse nothing
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_too_small_is_refused(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "_free", lambda _: 9000)
    # 3 clients · 3 generations · 1000 bytes, as measured: room in 9/10 of 10,000 bytes, not of 9,000
    with pytest.raises(ConfigError, match=r"storage\.private: expected a disk with 0 MB free, .* 3 clients"):
        prepare(fresh(), CPU4, tmp_path, Trials("choices", Fake()))
    monkeypatch.setattr(sizes, "_free", lambda _: 10_000)
    prepare(fresh(), CPU4, tmp_path, Trials("choices", Fake()))


GPU = {"CPU": 8.0, "GPU": 1.0}
GB = 10**9


class FakeGpu(Fake):
    """One of 80 GB, of which a process takes 1 GB and its node 2 GB."""

    def __call__(self, ask: Ask, processes: int) -> list[apart.Found]:
        assert ask.job.layout.device == "cuda"
        (found, *_) = super().__call__(ask, processes)
        return [[Place(1000, 80 * GB, GB, 2 * GB) if isinstance(x, Place) else x for x in found]]


def test_on_a_gpu_seats_are_chosen_by_its_memory_and_everything_is_weighed(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "free_of_gpu", lambda: 79 * GB)
    # 9/10 of 80 GB less 1 GB and the backbone hold two seats of 30 GB (and 5 % more), not three
    job, plan = prepare(fresh(), GPU, tmp_path, Trials("choices", FakeGpu(bytes=30 * GB)))
    assert (job.layout.seats, job.layout.actors, job.layout.gpu) == (2, 1, 1.0)
    assert plan.memory.device == plan.memory.backbone + 63 * GB + GB
    assert plan.memory.process == 2 * GB + 2 * job.up.bytes()  # and two groups' sums, on the CPU


def test_a_client_that_is_larger_than_a_gpu_is_refused_with_its_size(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "free_of_gpu", lambda: 70 * GB)
    fake = FakeGpu(bytes=70 * GB)
    with pytest.raises(
        ConfigError, match=r"model\.path: expected clients that fit into the 63\.0 GB .*, got 74\.5 GB \(backbone"
    ):
        prepare(fresh(seats=1), GPU, tmp_path, Trials("choices", fake))
    assert [ask.seats for ask, _ in fake.asked] == [(1,)]  # weighed even where nothing is to be chosen
    job, plan = prepare(fresh(seats=1), GPU, tmp_path, Trials("nothing", fake))
    assert plan.memory.on_gpu and plan.memory.context > 0 and job.layout.device == "cuda"


def test_gpus_may_be_left_alone(fresh, tmp_path):
    x = fresh(resources={"gpu_per_client": 0})
    assert prepare(x, GPU, tmp_path, Trials("nothing"))[0].layout.device == "cpu"


def test_what_was_chosen_is_in_the_resolved_config_and_read_back(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "here", Fake())
    monkeypatch.setattr(backend, "available", lambda _: CPU1)
    run = api.simulate(fresh(rounds=1), tmp_path / "run")
    written = yaml.safe_load((run.path / "config.yaml").read_text())
    assert (written["seats"], written["placement"], written["resources"]["threads"]) == (3, "pooled", 1)
    monkeypatch.setattr(apart, "here", None)  # nothing is measured to go on
    assert api.resume(run.path).summary["clients"] == run.summary["clients"]


def test_a_forecast_comes_true(small, tmp_path, monkeypatch):
    """In seconds of one busy processor, as on an idle machine; to a quarter."""
    x = small(clients=4, seats=2, rounds=3, train={"steps": 8, "batch": 4}, evaluation={"every": 1}, data={"max_test_rows": 40})
    said = api.make_plan(x, "forecast").forecast
    assert said is not None
    rounds, exams, last = [], [], process_time()

    def watch(event):
        nonlocal last
        if isinstance(event, (RoundDone, Evaluated)):
            (rounds if isinstance(event, RoundDone) else exams).append(process_time() - last)
        if not isinstance(event, Progress):
            last = process_time()

    api.simulate(x, tmp_path / "run", watch=watch)
    print(said, rounds, exams)
    assert said.round == pytest.approx(sum(rounds[1:]) / 2, rel=0.25)
    assert said.rounds == 3 and said.evaluations == 4
    assert said.evaluation == pytest.approx(sum(exams) / 4, rel=0.25)
