"""What does a round cost besides training? Clients that train nothing, so that everything else is left.

    python -m benchmarks.overhead                    # all of it: about 40 minutes; `make peers` first
    python -m benchmarks.overhead --picture benchmarks/pictures/overhead
    python -m benchmarks.overhead --quick            # fewer rounds, one repetition
    python -m benchmarks.overhead --only flexray "bare Ray" --task small

Tasks: 1,000 clients that share 12 KB (the smallest adapter of the built-in model; 10 KB asked), 20 × 50 MB, and 10 × 1 MB
that own 50 MB each, which stay as they are or change in every round. Four processes on four cores:

    flexray               the built-in model, benchmarks/noop.py for a method, four actors; private state on disk
    bare Ray              four actors, each pushed its slice of the cohort, each returning one partial sum; no disk
    bare Ray, each        the same, but one call per client, and every update comes back
    loop                  one process, numpy, in place; no federation to speak of: the floor
    Flower                flwr 1.41.0, run_simulation, FedAvg, actors of one CPU; see rivals/flower_noop.py
    pfl, pfl × 4          pfl 0.6.0, SimulatedBackend in one process, and in four by torchrun; see rivals/pfl_noop.py

Rivals share one flat array, which favours them; flexray has its named tensors. Everybody's mean is checked before
anything is timed: client k adds k · step, weighted by its rows. Then they take turns. Milliseconds are those of a round by
each one's own clock (flexray: `seconds` of the rounds table; `wall`: from one finished round to the next, with the
checkpoint that flexray writes and the others do not), median of the rounds after the first, over clients. Memory is
the peak of the process that aggregates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter
from typing import Any

import psutil

import flexray
from benchmarks import panels, pictures
from benchmarks.common import MIB, interleaved, machine, middle, table, workers
from benchmarks.rivals.task import Task, peak
from flexray.config import Experiment
from flexray.sim.events import RoundDone
from flexray.sim.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
PER_RANK = 3072
"""Numbers of an adapter of rank 1 on q, k and v of the built-in model: 4 layers × 3 × (128 + 128)."""
TOLERANCE = 1e-3
"""For sums of a thousand float32 numbers of size 1 to 5."""


@dataclass(frozen=True)
class Cell:
    """One task. goal: milliseconds per client and round."""

    clients: int
    rank: int
    goal: float
    owned: int = 0
    changes: bool = False


CELLS = {
    "small": Cell(1000, 1, 0.1),
    "large": Cell(20, 4069, 25),
    "private": Cell(10, 81, 2, owned=12_500_000),
    "private, changing": Cell(10, 81, 2, owned=12_500_000, changes=True),
}


@dataclass(frozen=True)
class Cost:
    """Milliseconds per client and round, the same from round to round on the wall, and the aggregating process's peak."""

    ms: float
    wall: float
    peak: int
    wrong: float


def cost(task: Task, seconds: list[float], wall: list[float], peak: int, wrong: float) -> Cost:
    ms, between = (1e3 * median(found[1:]) / len(task.rows) for found in (seconds, wall))
    return Cost(ms, between, peak, wrong)


def rows_of(clients: int) -> tuple[int, ...]:
    """Train rows: two at the first half of the clients, one at the others, so that a mean without weights shows."""
    return tuple(2 if k < clients // 2 else 1 for k in range(clients))


def data(folder: Path, rows: tuple[int, ...]) -> Path:
    """A data set in which every client has so many train rows, and one to score."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        owners = [k for k, n in enumerate(rows) for _ in range(n if split == "train" else 1)]
        lines = [
            json.dumps({"instruction": f"Say {split} {i}.", "output": str(i), "client": f"{k:06d}"})
            for i, k in enumerate(owners)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def experiment(cell: Cell, task: Task, folder: Path) -> Experiment:
    """What flexray is asked; it scores once, at the end, which is not timed."""
    return Experiment(
        clients=cell.clients,
        rounds=task.rounds,
        algorithm={
            "name": str(ROOT / "benchmarks" / "noop.py"), "lora": {"rank": cell.rank}, "owned": task.owned,
            "changes": task.changes, "step": task.step,
        },
        data={
            "path": str(data(folder / f"data-{cell.clients}", task.rows)), "partition": {"name": "column", "column": "client"},
        },
        train={"steps": 1, "batch": 1},
        evaluation={"every": None, "metrics": ["loss"], "inside_rows": 0},
        storage={"cache": str(folder / "cache")},
    )  # fmt: skip


def ours(cell: Cell, task: Task, folder: Path) -> Cost:
    """One run of flexray."""
    done, highest, stop = [], [0], Event()

    def watch(event: Any) -> None:
        if isinstance(event, RoundDone):
            done.append(perf_counter())

    watcher = Thread(target=_driver, args=(highest, stop), daemon=True)
    watcher.start()
    with TemporaryDirectory(dir=folder) as out:
        run = flexray.simulate(experiment(cell, task, folder), Path(out) / "run", watch=watch)
        stop.set()
        watcher.join()
        seconds = [r["seconds"] for r in run.rounds()]
        return cost(task, seconds, [0.0, *(b - a for a, b in pairwise(done))], highest[0], _wrong(run.path, task))


def _driver(highest: list[int], stop: Event) -> None:
    """The peak memory of this process's driver actor, for as long as there is one."""
    while not stop.wait(0.1):
        with suppress(psutil.Error):  # a process that ends while it is looked at
            highest[0] = max([highest[0], *map(peak, workers("ray::Driver"))])


def _wrong(path: Path, task: Task) -> float:
    """How far the B of the adapters, which started at zero, is from what it must be."""
    saved = RunFolder(path).load_server()
    assert saved is not None
    weights = saved[0].states[0].sent.weights
    return max(float((t - task.shift).abs().max()) for name, t in weights.items() if name.endswith("/b"))


def rival(command: list[str], cell: Cell, task: Task, folder: Path) -> Cost:
    """One run of another, in a process of its own."""
    with TemporaryDirectory(dir=folder) as own:
        asked, answer = Path(own) / "task.json", Path(own) / "answer.json"
        task.save(asked)
        env = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
        done = subprocess.run([*command, str(asked), str(answer)], cwd=ROOT, env=env, capture_output=True, text=True)
        if not answer.exists():
            sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        told = json.loads(answer.read_text())
    return cost(task, told["seconds"], told["seconds"], told["peak"], told["wrong"])


def contestants(peers: Path) -> dict[str, Callable[[Cell, Task, Path], Cost]]:
    """Everybody, by name; who has no environment is left out, with a word."""
    flower, pfl = (str(peers / name / "bin" / "python") for name in ("flower", "pfl"))
    torchrun = [pfl, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4", "-m"]
    commands = {
        "bare Ray": [sys.executable, "-m", "benchmarks.rivals.bare"],
        "bare Ray, each": [sys.executable, "-m", "benchmarks.rivals.bare", "--each"],
        "loop": [sys.executable, "-m", "benchmarks.rivals.loop"],
        "Flower": [flower, "-m", "benchmarks.rivals.flower_noop"],
        "pfl": [pfl, "-m", "benchmarks.rivals.pfl_noop"],
        "pfl × 4": [*torchrun, "benchmarks.rivals.pfl_noop"],
    }
    missing = [name for name, command in commands.items() if not Path(command[0]).exists()]
    if missing:
        print(f"left out, as {peers} does not have them: {', '.join(missing)}; run `make peers`")
    return {"flexray": ours} | {name: partial(rival, c) for name, c in commands.items() if name not in missing}


def measure(name: str, cell: Cell, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Checks everybody, times everybody, prints a table; each one's milliseconds."""
    everybody = contestants(options.peers)
    chosen = {n: run for n, run in everybody.items() if not options.only or n in options.only}
    task = Task(rows_of(cell.clients), PER_RANK * cell.rank, cell.owned, cell.changes, rounds=options.rounds)
    probe = replace(task, step=1 / cell.clients, rounds=2)
    print(f"\n{name}: {cell.clients} clients × {4e-6 * task.numbers:.3g} MB, each with {4e-6 * cell.owned:.3g} MB of its own")
    for who, run in chosen.items():
        wrong = run(cell, probe, folder).wrong
        print(f"  {who}: off by {wrong:.1e} after two rounds that add {probe.shift:.3g}", flush=True)
        if not wrong < TOLERANCE:
            sys.exit(f"{who} does not aggregate correctly")
    turns = {who: partial(run, cell, task, folder) for who, run in chosen.items()}
    given = interleaved(turns, options.repetitions)
    report(cell, given)
    return {who: median(c.ms for c in found) for who, found in given.items()}


def report(cell: Cell, given: dict[str, list[Cost]]) -> None:
    first = next(iter(given.values()))
    rows = [
        (
            who,
            middle([c.ms for c in found], ".3g"),
            f"{median(c.wall for c in found):.3g}",
            middle([c.ms / own.ms for c, own in zip(found, first, strict=True)], ".3g"),
            f"{max(c.peak for c in found) / MIB:.0f}",
        )
        for who, found in given.items()
    ]
    print(table(("", "ms per client and round", "wall", f"over {next(iter(given))}", "peak, MiB"), rows))
    print(f"goal: {cell.goal} ms, 1.0 GB = {1e9 / MIB:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="of those above")
    parser.add_argument("--task", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="four rounds, one repetition")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers", help="where `make peers` put them")
    pictures.add_option(parser)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.repetitions = 4, 1
    note = machine()
    print(note)
    with TemporaryDirectory() as folder:
        costs = {_work(CELLS[name]): measure(name, CELLS[name], options, Path(folder)) for name in options.task}
    pictures.write(panels.overhead(costs, {_work(c): c.goal for c in CELLS.values()}), options.picture, note)


def _work(cell: Cell) -> str:
    """A task in words."""
    owned = f", {4e-6 * cell.owned:.0f} MB of their own {'that change' if cell.changes else 'that stay'}" if cell.owned else ""
    return f"{cell.clients:,} clients × {4e-6 * PER_RANK * cell.rank:.3g} MB{owned}"


if __name__ == "__main__":
    main()
