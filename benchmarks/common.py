"""What the benchmarks share: naming the machine, medians with their spread, tables, the memory of a process."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

MIB = 1 << 20


def machine() -> str:
    """Where this was measured, in one line; a busy machine says so."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine()
    )
    gib = next((int(line.split()[1]) / MIB for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    packages = ", ".join(found for name in ("torch", "transformers", "ray") if (found := _package(name)))
    load = os.getloadavg()[0]
    busy = f"; BUSY: load {load:.1f} before the start" if load > 1 else ""
    return f"{len(os.sched_getaffinity(0))} CPUs ({cpu}), {gib:.0f} GiB, Python {platform.python_version()}, {packages}{busy}"


def _package(name: str) -> str:
    """A package and its version; nothing where it is not installed."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def middle(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and how far the values spread."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def interleaved(contestants: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, list[Any]]:
    """What each contestant gave, one after another, in a turning order, so that a busy spell hits all alike."""
    names = list(contestants)
    given: dict[str, list[Any]] = {name: [] for name in names}
    for i in range(repetitions):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            given[name].append(contestants[name]())
    return given


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, as the README keeps it."""
    cells = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def workers(*titles: str) -> list[int]:
    """Processes below this one whose names begin so: Ray's workers are, and are named after the actor that they hold."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if Path((process.cmdline() or [""])[0]).name.startswith(titles):
                found.append(process.pid)
    return found


@contextmanager
def several_nodes(count: int, cpus: int, folder: Path) -> Iterator[str]:
    """A cluster of so many nodes on this machine: its address. `folder`, with a short name, gets what Ray notes."""
    from ray.cluster_utils import Cluster

    from flexray import cluster

    os.environ.setdefault("RAY_preload_python_modules", cluster.PRELOAD)
    # Ray notes the cluster's address in its folder for temporary files, where any later start would find it.
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = str(folder)
    (folder / "ray").mkdir(parents=True, exist_ok=True)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        for _ in range(count - 1):
            made.add_node(num_cpus=cpus)
        made.wait_for_nodes()
        assert made.address is not None
        yield made.address
    finally:
        made.shutdown()
        del os.environ["RAY_TMPDIR"]
        os.environ.update({"RAY_TMPDIR": before} if before else {})


def smaps(pid: int) -> dict[str, int]:
    """A process's memory in bytes: rss, pss (shared pages divided by their users), uss (its own pages)."""
    found = {}
    for line in _lines(f"/proc/{pid}/smaps_rollup"):
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            found[name] = int(rest.split()[0]) * 1024
    return {"rss": found["Rss"], "pss": found["Pss"], "uss": found["Private_Clean"] + found["Private_Dirty"]}


def mapped(pid: int, file: Path) -> dict[str, int]:
    """The same of one file's mapping in a process: what of it is in memory, its share, and what was copied by writing to it."""
    found, inside = {"rss": 0, "pss": 0, "copied": 0}, False
    names = {"Rss": "rss", "Pss": "pss", "Anonymous": "copied"}
    for line in _lines(f"/proc/{pid}/smaps"):
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            inside = line.endswith(str(file))
        elif inside and first[:-1] in names:
            found[names[first[:-1]]] += int(line.split()[1]) * 1024
    return found


def empty(device: str) -> None:
    """Gives back what is left of the last case on a GPU; its peak counts from here."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def wait(device: str) -> None:
    """Until a GPU has done all that it was told."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def peak(device: str) -> int:
    """Bytes of a GPU in use at the most, torch's blocks and what the process takes beside them; 0 on the CPU."""
    import torch

    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_reserved() + total - free - torch.cuda.memory_reserved()
