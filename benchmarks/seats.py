"""What seats are worth: training tokens per second of one thread with K clients in one forward.

    python -m benchmarks.seats [--batches 1 4 8 16] [--seats 1 2 4 8 16] [--picture benchmarks/pictures/seats]

The same clients take the same steps on the same rows in every case; K of them sit in one forward, the others take turns. One
process, one thread, no Ray: first the weights after a round are compared with those of one client at a time, then rounds of all K
are played turn by turn. Tokens count where they are, padding never does. The time is that of local training; reading and
writing private state is left out, as it is the same for all K.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import torch

from benchmarks import panels, pictures
from benchmarks.common import interleaved, machine, middle, table
from benchmarks.panels import MORE, enough
from benchmarks.starts import starts
from flexray.config import Experiment
from flexray.sim.events import RoundDone
from flexray.sim.job import Job
from flexray.sim.planning.plan import prepare
from flexray.sim.pool import InlinePool
from flexray.sim.private.store import PrivateStore
from flexray.sim.round import RoundReport
from flexray.sim.run import run
from flexray.sim.run_folder import RunFolder
from flexray.state import State

TOLERANCE = 1e-4
"""Of what a round moved, as a norm."""
STEPS = {1: 40, 2: 20, 4: 10, 8: 6, 16: 4, 32: 2}
"""Local steps of a round by batch: rounds of about the same number of tokens."""


@dataclass
class Case:
    """One number of seats: its rounds, played one at a time, and its clients' weights after the first."""

    seats: int
    rounds: Generator[RoundReport, None, None]
    folder: RunFolder
    job: Job

    def shared(self) -> State:
        """The shared adapters' B as they are now; they start at zero, so that they are what was moved."""
        saved = self.folder.load_server()
        assert saved is not None
        return {name: t for name, t in saved[0].states[0].sent.weights.items() if name.endswith("/b")}

    def own(self) -> list[State]:
        """Every client's private weights after the first round."""
        store = PrivateStore(self.job.private, [c.name for c in self.job.trainees], self.job.identity)
        return [store.read(k, 0).weights for k in range(len(self.job.clients))]


def experiment(batch: int, seats: int, options: argparse.Namespace, cache: Path, **train: Any) -> Experiment:
    """The embedded default; its rows are dealt so that clients are much alike."""
    steps = options.steps or STEPS.get(batch, max(1, 64 // batch))
    return Experiment(
        clients=options.clients, rounds=options.repetitions + 2, placement="pooled", seats=seats, storage={"cache": str(cache)},
        train={"batch": batch, "steps": steps, **train},
        evaluation={"every": None, "metrics": ["loss"], "inside_rows": 0}, resources={"backend": "inline"},
        data={"partition": {"name": "dirichlet", "alpha": 10.0}, "max_valid_rows": 4, "max_test_rows": 4},
    )  # fmt: skip


def case(batch: int, seats: int, options: argparse.Namespace, folder: Path, **train: Any) -> Case:
    """A run that waits to be played."""
    out = Path(mkdtemp(prefix=f"batch-{batch}-seats-{seats}-", dir=folder))
    job, _ = prepare(experiment(batch, seats, options, folder / "cache", **train), {"CPU": 1.0}, out / "private")
    rounds = (event.report for event in run(job, InlinePool, out) if isinstance(event, RoundDone))
    return Case(seats, rounds, RunFolder(out), job)


def check(batch: int, options: argparse.Namespace, folder: Path) -> None:
    """K seats give the weights of one by one, to rounding: after a round of plain gradient steps, as AdamW's first steps go as
    far whatever the gradient, and where that is all but zero they follow its rounding."""
    cases = [case(batch, seats, options, folder, steps=2, optimizer="sgd") for seats in options.seats]
    for each in cases:
        next(each.rounds)
        each.rounds.close()
    one = cases[0]
    before, after = starts(one.job), one.own()
    for each in cases[1:]:
        pairs = list(zip(each.own(), after, before, strict=True))
        private = max(norm(sub(a, b)) / norm(sub(b, s)) for a, b, s in pairs)
        shared = norm(sub(each.shared(), one.shared())) / norm(one.shared())
        print(
            f"  K = {each.seats} is off K = {one.seats} by {private:.1e} (private), {shared:.1e} (shared) of what a round moved"
        )
        if max(private, shared) > TOLERANCE:
            sys.exit(f"K = {each.seats} did not do the same work: off by more than {TOLERANCE:.0e}")


def sub(x: State, y: State) -> State:
    return {name: t - y[name] for name, t in x.items() if t.is_floating_point()}


def norm(x: State) -> float:
    """Of all numbers together."""
    return float(torch.stack([t.double().square().sum() for t in x.values()]).sum().sqrt())


def measured(batch: int, options: argparse.Namespace, folder: Path) -> dict[int, list[float]]:
    """Tokens per second of every repetition, by K."""
    check(batch, options, folder)
    cases = [case(batch, seats, options, folder) for seats in options.seats]
    for each in cases:
        next(each.rounds)  # in which clients are new
    reports = interleaved({str(c.seats): partial(next, c.rounds) for c in cases}, options.repetitions)
    for each in cases:
        each.rounds.close()
    return {int(seats): [r.tokens / r.seconds_training for r in own] for seats, own in reports.items()}


def row(batch: int, rates: dict[int, list[float]]) -> list[str]:
    first = next(iter(rates.values()))
    ratios = {seats: [r / f for r, f in zip(own, first, strict=True)] for seats, own in rates.items()}
    worst = min((median(own), seats) for seats, own in ratios.items() if own is not ratios[next(iter(ratios))])
    cells = [f"{median(own):,.0f} × {median(ratios[seats]):.2f}" for seats, own in rates.items()]
    return [str(batch), *cells, str(enough(rates)), f"{middle(ratios[worst[1]])} at K = {worst[1]}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16], help="rows of a client in one step")
    parser.add_argument("--seats", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="what is compared, with the first")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--steps", type=int, help="local steps of a round; unset, rounds have about as many tokens each")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two repetitions of short rounds, to see that it works")
    pictures.add_option(parser)
    options = parser.parse_args()
    if options.quick:
        options.repetitions, options.steps = 2, options.steps or 2
    torch.set_num_threads(1)
    print(note := machine())
    rates: dict[int, dict[int, list[float]]] = {}
    with TemporaryDirectory() as folder:
        for batch in options.batches:
            print(f"batch {batch}")
            rates[batch] = measured(batch, options, Path(folder))
    first = f"K = {options.seats[0]}"
    head = ("batch", *(f"K = {seats}" for seats in options.seats), "enough seats", f"least over {first}: median (range)")
    print(f"training tokens/s of one thread, {options.clients} clients, median of {options.repetitions}; × over {first}")
    print(table(head, [row(batch, own) for batch, own in rates.items()]))
    print(f"enough seats: the smallest K from which no larger one gives {MORE - 1:.0%} more")
    pictures.write(panels.seats(rates), options.picture, note)


if __name__ == "__main__":
    main()
