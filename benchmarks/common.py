"""What the benchmarks share: naming the machine, medians with their spread, tables, the memory of a process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
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
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ray"))
    load = os.getloadavg()[0]
    busy = f"; BUSY: load {load:.1f} before the start" if load > 1 else ""
    return f"{len(os.sched_getaffinity(0))} CPUs ({cpu}), {gib:.0f} GiB, Python {platform.python_version()}, {packages}{busy}"


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
