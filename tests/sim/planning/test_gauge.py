"""Weighing this process, and what the system says is free."""

from types import SimpleNamespace

import pytest
import torch

from flexray.sim.planning import gauge
from flexray.sim.planning.gauge import Gauge

MB = 1 << 20  # the system's counts lag behind by some pages


def test_what_comes_and_goes_counts_from_the_start_on():
    g = Gauge("cpu")
    kept = torch.ones(8 * MB)  # 32 MB
    g.start()
    passing = torch.ones(16 * MB)  # 64 MB
    del passing
    found = g.peak()
    assert found is not None and 95 * MB < found < 106 * MB
    g.start()
    found = g.peak()
    assert found is not None and 31 * MB < found < 42 * MB
    assert len(kept) and g.device() == (0, 0, 0)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Makes the files by which a system tells of its memory."""

    def make(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(gauge, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(gauge, "CONTAINERS", (("max", "current", str(tmp_path), "inactive_file"),))

    return make


NODE = "MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  600 kB\n"


def test_free_memory_is_the_systems(system):
    system(meminfo=NODE)
    assert gauge.free_memory() == (600 * 1024, 1000 * 1024)


def test_a_container_may_have_less(system):
    system(meminfo=NODE, max="500000\n", current="400000\n", **{"memory.stat": "anon 1\ninactive_file 50000\n"})
    assert gauge.free_memory() == (150_000, 500_000)
    system(meminfo=NODE, max="max\n", current="400000\n")
    assert gauge.free_memory() == (600 * 1024, 1000 * 1024)
    system(meminfo=NODE, max=f"{1 << 62}\n", current="400000\n")  # no limit, as older systems write it
    assert gauge.free_memory() == (600 * 1024, 1000 * 1024)


class Gpu:
    """torch's side of a GPU of 80 GB of which 70 are free, on which a process takes 1 GB before anything."""

    def __init__(self):
        self.free, self.allocated, self.reserved = 70, 0, 0

    def mem_get_info(self):
        return self.free, 80

    def memory_allocated(self):
        return self.allocated

    def max_memory_reserved(self):
        return self.reserved

    def reset_peak_memory_stats(self):
        self.reserved = self.allocated


def test_a_gpu_is_weighed_by_torchs_blocks_above_the_backbone(monkeypatch):
    gpu = Gpu()

    def zeros(*_, **__):
        gpu.free = 69

    monkeypatch.setattr(gauge, "torch", SimpleNamespace(cuda=gpu, zeros=zeros, device=torch.device))
    g = Gauge("cuda")
    gpu.allocated = 28  # the backbone
    g.settle()
    g.start()
    gpu.reserved = 35
    assert g.peak() == 7
    assert g.device()[:2] == (80, 1) and g.device()[2] > 0


def test_where_no_gpu_is_seen_none_of_it_is_free():
    if not torch.cuda.is_available():
        assert gauge.free_of_gpu() == 0
