"""Joining and refusing clusters."""

from dataclasses import replace

import pytest

from flexray import api, cluster
from flexray.errors import ConfigError
from flexray.sim.planning.measure import Ask, Place, Turn
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:port", "127.0.0.1:99999"])
def test_a_dead_address_is_refused_at_once(monkeypatch, address):
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"resources\.address: expected .*, got '" + address), cluster.start(address):
        pass


def test_where_rays_session_has_no_room_is_told_before_it_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "SESSION", 1 << 60)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with (
        pytest.raises(ConfigError, match=r"TMPDIR: expected a folder with .* MB to spare, .*, got '" + str(tmp_path)),
        cluster.start(),
    ):
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


@pytest.mark.parametrize(
    ("asked", "variable", "goes"),
    [
        (None, None, "local"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        (None, "http://10.0.0.1:8265", "local"),
        ("auto", "10.0.0.1:6379", "auto"),
        ("local", "10.0.0.1:6379", "local"),
    ],
)
def test_who_asks_for_nothing_goes_where_its_job_was_submitted_to(monkeypatch, asked, variable, goes):
    """Over http jobs are submitted; no Ray is joined there."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster.wanted(asked) == goes


def test_rays_client_is_for_whole_runs(monkeypatch):
    """Not for what would plan here and run there."""
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    with (
        pytest.raises(ConfigError, match=r"resources\.address: expected local, auto or host:port, got 'ray://h:1'"),
        cluster.start("ray://h:1"),
    ):
        pass


def test_a_dead_address_of_rays_client_is_refused_at_once(monkeypatch, small, tmp_path):
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    x = small(resources={"backend": "ray", "address": "ray://127.0.0.1:1"})
    with pytest.raises(ConfigError, match=r"resources\.address: expected .*, got 'ray://127\.0\.0\.1:1'"):
        api.simulate(x, tmp_path / "run")
    with pytest.raises(ConfigError, match="--out: expected a whole path with ray://"):
        api.simulate(x, "run")


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
