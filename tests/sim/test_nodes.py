"""Nodes as Ray sees them, where there is one. Several: `test_several_nodes.py`."""

import ray

from flexray.sim import nodes
from flexray.sim.job import Layout


def layout(cpu: float, gpu: float = 0.0) -> Layout:
    return Layout("pooled", actors=1, seats=1, threads=1, device="cpu", cpu=cpu, gpu=gpu)


def test_no_actor_is_on_two_nodes(ray_here, monkeypatch):
    """On nodes of 3 and 4 CPUs fit 1 + 2 actors of 2 CPUs, not 7 / 2; of 0.5 there fit 6 + 8."""
    assert nodes.slots(layout(1)) == 4  # the session's Ray
    monkeypatch.setattr(
        nodes, "alive", lambda: [{"Resources": {"CPU": 3.0}}, {"Resources": {"CPU": 4.0, "GPU": 1.0}}, {"Resources": {}}]
    )
    assert [nodes.slots(layout(cpu)) for cpu in (2, 0.5)] == [3, 14]
    assert nodes.slots(layout(0.5, gpu=0.25)) == 4


def test_one_node_needs_no_courier_and_shares_with_nobody(ray_here, tmp_path):
    nodes.check_shared(tmp_path / "a" / "b", "--out")
    assert nodes.spread() is None and not (tmp_path / "a").exists()


def test_what_is_beside_the_driver_is_on_its_node(ray_here):
    there = nodes.this_node()
    assert there is not None and there.node_id == ray.get_runtime_context().get_node_id() and not there.soft
