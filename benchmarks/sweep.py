"""Trials per minute of a sweep, against the same trials run perfectly packed.

    python -m benchmarks.sweep                    # 12 trials on all CPUs: about seven minutes on 4
    python -m benchmarks.sweep --trials 24 --rounds 20

    sweep     `flexray sweep` from its first line to its last: reading, planning, starting Ray and Tune, trials, tables
    packed    the same trials as `flexray simulate` would play them in one process (`resources.backend: inline`), in as many
              single-thread processes as there are CPUs, started before the clock, which take the next trial as soon as
              they are free: nothing is started, placed or told meanwhile
Of the sweep's seconds it is told how many go before its first trial begins: planning, and the start of Ray, Tune and processes.

Both play the same trials to the same scores, which is checked. They take turns; each turn's ratio counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import Any

from benchmarks.common import interleaved, machine, middle, table
from flexray import api
from flexray import sweep as runner
from flexray.config import Experiment
from flexray.sweeping.spec import Spec, read

CPUS = len(os.sched_getaffinity(0))


def asked(trials: int, rounds: int) -> Spec:
    """So many trials of the embedded default, in learning rates and seeds."""
    rates = [0.001 * 2**i for i in range(-(-trials // 3))]
    values = {"rounds": rounds, "seats": 2, "train": {"schedule": "constant"}}
    over = {"train.lr": rates, "seed": [0, 1, 2]}
    return read({**values, "sweep": {"over": over, "budget": {"trials": trials}}})


def swept(spec: Spec, out: Path) -> tuple[float, float, list[float]]:
    """Seconds of a sweep in all, and before its first trial begins; and the scores."""
    started, clock = perf_counter(), time()
    made = runner.sweep(spec, out)
    seconds = perf_counter() - started
    first = min(file.stat().st_mtime for file in out.glob("runs/*/clients.json"))  # a run's first file that stays as it is
    return seconds, first - clock, [row["personal.loss"] for row in made.trials().to_pylist()]


def _worker(tasks: Any, results: Any, ready: Any) -> None:
    import torch

    torch.set_num_threads(1)
    api.make_plan(Experiment(seats=1), "nothing")  # all libraries are loaded
    ready.wait()
    for number, spec, out in iter(tasks.get, None):
        run = api.simulate(Experiment(**spec), out, there={"CPU": 1.0, "GPU": 0.0})
        results.put((number, run.summary["mean"]["personal"]["loss"]))


def packed(spec: Spec, out: Path) -> tuple[float, list[float]]:
    """Seconds of the same trials in processes that are there already, and the scores."""
    context = multiprocessing.get_context("spawn")
    tasks, results, ready = context.Queue(), context.Queue(), context.Barrier(CPUS + 1)
    processes = [context.Process(target=_worker, args=(tasks, results, ready)) for _ in range(CPUS)]
    for process in processes:
        process.start()
    for number, point in enumerate(spec.points):
        x = spec.experiment(point)
        tasks.put((number, {**x.spec(), "resources": {"backend": "inline", "threads": 1}}, str(out / f"{number:03d}")))
    for _ in processes:
        tasks.put(None)
    ready.wait()
    started = perf_counter()
    scores = dict(results.get() for _ in spec.points)
    seconds = perf_counter() - started
    for process in processes:
        process.join()
    return seconds, [scores[n] for n in range(len(spec.points))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=2)
    options = parser.parse_args()
    print(machine())
    spec = asked(options.trials, options.rounds)
    with TemporaryDirectory() as name:
        folder = Path(name)
        api.make_plan(spec.first, "nothing")  # converted and tokenised
        count = iter(range(10**6))
        given = interleaved(
            {
                "sweep": lambda: swept(spec, folder / f"sweep-{next(count)}"),
                "packed": lambda: packed(spec, folder / f"packed-{next(count)}"),
            },
            options.repetitions,
        )
    ours, theirs = given["sweep"], given["packed"]
    assert all(a[2] == b[1] for a, b in zip(ours, theirs, strict=True)), "the trials' scores differ"
    seconds = {"packed": [s for s, _ in theirs], "sweep": [s for s, _, _ in ours]}
    before = {"packed": "0", "sweep": middle([s for _, s, _ in ours], ".1f")}
    rows = []
    for label, own in seconds.items():
        shares = [100 * a / b for a, b in zip(seconds["packed"], own, strict=True)]
        rows.append(
            (label, middle(own, ".1f"), before[label], f"{60 * options.trials / median(own):.1f}", middle(shares, ".0f"))
        )
    print(f"{options.trials} trials of {options.rounds} rounds on {CPUS} CPUs, {options.repetitions} times")
    print(table(("", "seconds: median (range)", "before the first trial", "trials per minute", "% of packed"), rows))


if __name__ == "__main__":
    main()
