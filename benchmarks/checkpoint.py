"""What a checkpoint after every round costs the rounds.

The same run with and without `storage.checkpoint`, on Ray, one after the other in turning order. Two jobs: the embedded default, and
one of so much private state that writing it counts (a random MoE whose grafted experts are tens of MB for each client). Of each run
the median time from the end of one round to the end of the next, so that all of it counts, wherever it goes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import flexray
from benchmarks.common import MIB, interleaved, machine, middle, table
from benchmarks.memory import save_model
from flexray import cluster
from flexray.config import Experiment
from flexray.sim.events import Checkpointed, RoundDone

ROUNDS, ACTORS = 8, 4


def default(folder: Path, checkpoint: str | None) -> Experiment:
    return Experiment(
        rounds=ROUNDS, evaluation={"every": None}, storage={"checkpoint": checkpoint, "cache": str(folder / "cache")}
    )


def large(folder: Path, checkpoint: str | None) -> Experiment:
    return Experiment(
        clients=8, rounds=ROUNDS, model={"path": str(folder / "model")}, train={"steps": 4},
        evaluation={"every": None, "metrics": ["loss"]},
        data={"max_train_rows": 64, "max_valid_rows": 4, "max_test_rows": 4},
        storage={"checkpoint": checkpoint, "cache": str(folder / "cache")},
    )  # fmt: skip


class Run:
    """Seconds of each round but the first, and what its checkpoints say."""

    def __init__(self, x: Experiment, out: Path):
        self.ends: list[float] = []
        self.copies: list[Checkpointed] = []
        flexray.simulate(x, out, watch=self)
        self.seconds = median(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))

    def __call__(self, what: Any) -> None:
        if isinstance(what, RoundDone):
            self.ends.append(perf_counter())
        if isinstance(what, Checkpointed):
            self.copies.append(what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    many = parser.parse_args().repetitions
    print(machine())
    rows = []
    with TemporaryDirectory() as name, cluster.start("local", num_cpus=ACTORS):
        folder = Path(name)
        save_model(folder / "model")
        for title, make in (("embedded default", default), ("large private state", large)):
            count = iter(range(10_000))

            def once(place: str | None, make: Any = make, count: Any = count, title: str = title) -> Run:
                out = folder / f"{title}-{next(count)}".replace(" ", "-")
                return Run(make(folder, place), out)

            once(None)  # converts the model, and starts the workers
            runs = interleaved({"without": lambda: once(None), "with": lambda: once(str(folder / "place"))}, many)
            ratios = [w.seconds / wo.seconds for w, wo in zip(runs["with"], runs["without"], strict=True)]
            copies = [c for run in runs["with"] for c in run.copies]
            assert not any(c.error for c in copies)
            rows.append(
                [
                    title, middle([r.seconds for r in runs["without"]]), middle([r.seconds for r in runs["with"]]),
                    middle(ratios, ".3f"), f"{median(c.bytes for c in copies) / MIB:.1f}", middle([c.seconds for c in copies]),
                ]
            )  # fmt: skip
    print(table(("job", "round without [s]", "with [s]", "ratio", "MiB of a checkpoint", "seconds it takes beside"), rows))


if __name__ == "__main__":
    main()
