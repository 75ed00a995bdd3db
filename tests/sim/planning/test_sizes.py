"""Sums of memory and disk, and refusals in the words that a person reads."""

from dataclasses import replace

import pytest

from flexray.errors import ConfigError
from flexray.sim.planning import sizes
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials
from flexray.sim.planning.sizes import COMMAND, Disk, Memory, check_disk, check_memory, disk

MB, GB = 10**6, 10**9
ON_CPU = Memory(backbone=2 * GB, process=GB, work=3 * GB, driver=GB, rest=COMMAND, actors=4)
ON_GPU = Memory(
    backbone=28 * GB, process=GB, work=10 * GB, driver=GB, rest=COMMAND, actors=2, on_gpu=True, sharing=2, context=GB
)


def test_on_cpus_the_backbone_is_there_once_and_on_gpus_in_every_actor():
    assert ON_CPU.actor == 4 * GB and ON_CPU.node == (2 + 4 * 4 + 1) * GB + COMMAND and ON_CPU.device == 0
    # a node of GPUs holds processes and the driver; each GPU two actors
    assert ON_GPU.actor == GB and ON_GPU.node == (2 + 1) * GB + COMMAND and ON_GPU.device == 2 * (28 + 10 + 1) * GB


def refused(m: Memory, seats: int, node: int, device: int = 0) -> str:
    with pytest.raises(ConfigError) as e:
        check_memory(m, seats, node, device)
    return str(e.value)


def test_a_node_that_is_too_small_is_refused_with_sizes_and_the_mend():
    check_memory(ON_CPU, 2, 22 * GB, 0)  # 19 GB of 9/10 of 22
    assert refused(ON_CPU, 2, 20 * GB) == (
        "resources.cpu_per_client: expected a run that fits into the 18.0 GB of memory that this node can spare, got 19.0 GB "
        "(4 × 4.0 GB for actors, 3.0 GB beside them); raise it, so that fewer actors are on a node"
    )
    one = replace(ON_CPU, actors=1)
    assert refused(one, 2, GB).startswith("seats: expected") and refused(one, 2, GB).endswith("; lower it")
    assert refused(one, 1, 500 * MB) == (
        "train.batch: expected a run that fits into the 450 MB of memory that this node can spare, got 7.0 GB "
        "(1 × 4.0 GB for actors, 3.0 GB beside them); lower it, or data.max_length; or set train.recompute"
    )


def test_a_gpu_that_is_too_small_is_refused_with_sizes_and_the_mend():
    check_memory(ON_GPU, 4, 9 * GB, 87 * GB)
    check_memory(ON_GPU, 4, 9 * GB, 0)  # none is seen from here
    assert refused(ON_GPU, 4, 9 * GB, 80 * GB) == (
        "resources.gpu_per_client: expected clients that fit into the 72.0 GB that one GPU can spare, got 78.0 GB "
        "(2 actors with each backbone 28.0 GB, training 10.0 GB, the process 1.0 GB); raise it, so that fewer actors share a GPU"
    )
    alone = replace(ON_GPU, sharing=1, backbone=60 * GB, work=20 * GB)
    assert refused(alone, 4, 9 * GB, 80 * GB).startswith("seats: expected clients that fit into the 72.0 GB")
    assert refused(alone, 1, 9 * GB, 80 * GB) == (
        "model.path: expected clients that fit into the 72.0 GB that one GPU can spare, got 81.0 GB (backbone 60.0 GB, training "
        "20.0 GB, the process 1.0 GB); choose a smaller model or model.dtype, lower train.batch, or set train.recompute: "
        "a client is on one GPU"
    )


@pytest.fixture(scope="module")
def job(small, tmp_path_factory):
    def make(**changes):
        return prepare(small(**changes), {"CPU": 4.0}, tmp_path_factory.mktemp("private"), Trials("nothing"))[0]

    return make


def test_disk_is_for_those_who_train(job):
    # three of five rounds' cohorts of 2: at most 6 of 5 clients
    assert disk(job(clients=5, cohort=2, rounds=3), 10) == Disk(trained=5, each=10)
    one = disk(job(clients=5, cohort=1, rounds=3), 10)
    assert one == Disk(trained=3, each=10)
    assert one.bytes == 3 * 3 * 10  # two are kept and a third is written


def test_private_state_that_is_there_already_is_written_over(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "_free", lambda _: 1 * GB)
    need = Disk(trained=1000, each=GB // 2000)  # 1.5 GB
    with pytest.raises(ConfigError) as e:
        check_disk(need, tmp_path)
    assert str(e.value) == (
        "storage.private: expected a disk with 1.5 GB free, for the private state of 1,000 clients (0 MB each, 3 times while it "
        f"trains), got 1.0 GB at {str(tmp_path)!r}; name a larger one"
    )
    with (tmp_path / "after").open("wb") as file:
        file.truncate(GB)  # nine tenths of 1 GB free and this
    check_disk(need, tmp_path)


def test_free_disk_is_that_of_the_nearest_folder_there_is(tmp_path):
    assert sizes._free(tmp_path / "not" / "there") == pytest.approx(sizes._free(tmp_path), rel=0.5)
