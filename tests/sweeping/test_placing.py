"""How much of the cluster a trial takes."""

import pytest

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sweeping.placing import Room, planned
from flexray.sweeping.records import Record, Records
from flexray.sweeping.spec import read


def share(cpus=4, gpus=0, trials=10, node=None, resources=None, **sweep):
    spec = read({"sweep": {"over": {"rounds": [1]}, **sweep}})
    return Room({"CPU": cpus, "GPU": gpus}, node or cpus, trials).share(spec, Experiment(resources=resources or {}))


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, 1),  # enough trials to fill 4 CPUs
        ({"trials": 2}, 2),  # two share four
        ({"trials": 3}, 1),
        ({"trials": 1, "cpus": 16, "node": 8}, 8),  # no more than one node has
        ({"resources": {"cpu_per_client": 2}}, 2),
        ({"cpus": 8, "gpus": 2, "trials": 10}, 1),
    ],
)
def test_a_trial_takes_its_share(asked, got):
    assert share(**asked)["CPU"] == got


def test_a_given_share_is_kept():
    spec = read({"sweep": {"over": {"rounds": [1]}, "cpus": 3}})
    assert Room({"CPU": 4.0}, 4.0, 10).share(spec, Experiment()) == {"CPU": 3, "GPU": 0}


@pytest.mark.parametrize(
    ("sweep", "resources", "said"),
    [
        ({"cpus": 8}, {}, r"sweep\.cpus: expected at most 4 \(the CPUs of the largest node\), got 8"),
        ({"cpus": 1}, {"cpu_per_client": 2}, r"sweep\.cpus: expected at least resources\.cpu_per_client \(2\), got 1"),
        ({}, {"cpu_per_client": 8}, r"resources\.cpu_per_client: expected at most 4"),
        ({}, {"gpu_per_client": 0.5}, r"resources\.gpu_per_client: expected none where there is no GPU"),
    ],
)
def test_what_could_never_be_placed_is_refused(sweep, resources, said):
    spec = read({"sweep": {"over": {"rounds": [1]}, **sweep}})
    with pytest.raises(ConfigError, match=said):
        Room({"CPU": 4.0}, 4.0, 10).share(spec, Experiment(resources=resources))


def test_slots_are_what_fits():
    room = Room({"CPU": 8.0, "GPU": 2.0}, 8.0, 100)
    assert room.slots(Record(0, {}, {}, cpus=3)) == 2
    assert room.slots(Record(0, {}, {}, cpus=1, gpus=0.5)) == 4


def test_trials_that_differ_in_rates_alone_are_planned_once(cache, tmp_path):
    over = {"train.lr": [0.1, 0.2], "clients": [2, 3], "seed": [0, 1]}
    spec = read({"storage": {"cache": str(cache)}, "train": {"schedule": "constant"}, "seats": 1, "sweep": {"over": over}})
    room = Room({"CPU": 4.0}, 4.0, 8)
    made = [planned(spec, Records(tmp_path), room, n, point, measure=False) for n, point in enumerate(spec.points)]
    assert len(room.planned) == 4  # clients × seeds
    assert [r.spec["train"]["lr"] for r in made] == [0.1] * 4 + [0.2] * 4
    assert [(r.spec["clients"], r.spec["seed"]) for r in made[:4]] == [(2, 0), (2, 1), (3, 0), (3, 1)]
