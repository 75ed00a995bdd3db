"""Joining and refusing clusters."""

from dataclasses import replace

import pytest

from flexray import api, cluster
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sim.planning.measure import Ask, Place, Turn
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:port"])
def test_a_dead_address_is_refused_at_once(monkeypatch, address):
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"resources\.address: expected .*, got '" + address), cluster.start(address):
        pass


def test_a_running_ray_is_used_and_left_alone(ray_here):
    with cluster.start("local") as there:
        assert there["CPU"] == 4
        assert there["nodes"] == 1
    assert cluster.ray.is_initialized()


def test_more_gpus_than_there_are_is_wrong_input(ray_here, small, tmp_path):
    x = small(resources={"backend": "ray", "gpu_per_client": 0.5})
    with pytest.raises(ConfigError, match=r"resources\.gpu_per_client: expected at most 0 .* got 0\.5"):
        api.simulate(x, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_nodes_need_a_shared_place_for_private_state(tmp_path):
    with pytest.raises(ConfigError, match=r"storage\.private: expected a folder that all nodes share"):
        prepare(Experiment(), {"CPU": 8.0, "nodes": 2.0}, tmp_path)


def test_on_a_cluster_tasks_measure(ray_here, small, tmp_path):
    job, _ = prepare(small(), {"CPU": 4.0}, tmp_path, Trials("nothing"))
    found = cluster.answers(Ask(job, (1,)), 2)
    assert [[type(x) for x in one] for one in found] == [[Turn, Place]] * 2
    gone = replace(job, backbone=tmp_path / "gone")
    assert str(cluster.answers(Ask(gone, (1,)), 1)[0][0]).startswith("ConfigError: storage.cache")


def test_a_cluster_without_room_is_not_waited_for(ray_here, small, tmp_path, monkeypatch):
    job, _ = prepare(small(), {"CPU": 4.0}, tmp_path, Trials("nothing"))
    monkeypatch.setattr(cluster, "ROOM_SECONDS", 0.1)
    wide = replace(job, layout=replace(job.layout, cpu=99.0))
    assert cluster.answers(Ask(wide, (1,)), 1) == [["the cluster had no room for it in time"]]
