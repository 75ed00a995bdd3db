"""The memory of a process on the device that it works on: what it takes, and what is left."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import torch

CONTAINERS = (
    ("memory.max", "memory.current", "/sys/fs/cgroup", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "/sys/fs/cgroup/memory", "total_inactive_file"),
)
"""Where either version of control groups tells its limit, what is used, and what of it are pages that can be given up."""
MEMINFO, STATUS, REFERENCES = Path("/proc/meminfo"), Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Gauge:
    """Weighs what a process takes above a first state: its own pages on the CPU, torch's blocks on a GPU.

    Pages of mapped files are nobody's own, and must have been touched before `start`.
    """

    def __init__(self, device: str):
        self.cuda = torch.device(device).type == "cuda"
        self._total = self._context = 0
        if self.cuda:
            before, self._total = torch.cuda.mem_get_info()
            torch.zeros(1, device=device)
            self._context = before - torch.cuda.mem_get_info()[0]
        give_back()
        self._first = 0 if self.cuda else _status()["RssAnon"]
        self._own = self._all = 0

    def settle(self) -> None:
        """What a GPU holds now, the backbone, does not count."""
        if self.cuda:
            self._first = torch.cuda.memory_allocated()

    def start(self) -> None:
        """From here on the peak counts."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        elif REFERENCES.exists():
            give_back()
            REFERENCES.write_text("5")  # the peak is now what is there
            now = _status()
            self._own, self._all = now["RssAnon"], now["VmRSS"]

    def peak(self) -> int | None:
        """Bytes since `start`, or None where the system does not tell."""
        if self.cuda:
            return torch.cuda.max_memory_reserved() - self._first
        if not self._all:
            return None
        return max(self._own - self._first + _status()["VmHWM"] - self._all, 0)

    def device(self) -> tuple[int, int, int]:
        """Bytes: all of the GPU, what a bare process takes of it, what this one takes of its node. Zeros on the CPU."""
        return (self._total, self._context, _status()["RssAnon"]) if self.cuda else (0, 0, 0)


def free_memory() -> tuple[int, int]:
    """Bytes of this node that can still be taken, and all of them; where a container has less, that."""
    kb = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in _lines(MEMINFO))}
    free, total = kb["MemAvailable"] << 10, kb["MemTotal"] << 10
    for limit_file, used_file, folder, cached_name in CONTAINERS:
        limit, used = _number(f"{folder}/{limit_file}"), _number(f"{folder}/{used_file}")
        if limit is not None and used is not None and limit < total:
            stat = dict(line.split() for line in _lines(f"{folder}/memory.stat"))
            return min(free, max(limit - used + int(stat.get(cached_name, 0)), 0)), limit
    return free, total


def free_of_gpu() -> int:
    """Bytes free of the fullest GPU that is seen here, asked by a process that ends: this one must take none of it. 0: none is seen."""
    code = "import torch; print(min((torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())), default=0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else 0


def give_back() -> None:
    """Freed memory to the system, so that what is taken next is seen."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _status() -> dict[str, int]:
    """Bytes: VmRSS all pages, RssAnon own ones, VmHWM the peak of all."""
    lines = (line.partition(":") for line in STATUS.read_text().splitlines())
    return {name: int(rest.split()[0]) << 10 for name, _, rest in lines if name in ("VmRSS", "RssAnon", "VmHWM")}


def _lines(path: Path | str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _number(path: str) -> int | None:
    text = (_lines(path) or [""])[0]
    return int(text) if text.isdigit() else None
