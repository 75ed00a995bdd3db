"""Training tokens per second of a simulation, against no federation at all, sequential loops, and Flower.

    python -m benchmarks.throughput                # 16 clients on 4 actors: about 25 minutes; Flower after `make peers`
    python -m benchmarks.throughput --seats 4      # so many clients per forward, instead of what flexray chooses
    python -m benchmarks.throughput --quick        # 2 rounds × 5 steps, once; --picture benchmarks/pictures/throughput

All do the same steps on the same rows from the same start, which is checked first: after one round their weights agree.
Then they take turns, and each turn's ratio counts.

    flexray           the embedded default with FLEx, 4 client actors of one thread each, `seats: auto`
    independent       4 single-thread processes of plain PyTorch (plain.py) that do 4 clients each, one after another:
                      the ideal, as nobody waits for anybody and nothing is sent
    one process       the same in one process with all threads
    sequential        one process with all threads, or with one, a fresh Trainer per client and round (sequential.py)
    Flower            flwr 1.41.0, the client of plain.py in a ClientApp on 4 actors (rivals/flower_train.py), rounds alone
    Flower, Trainer   the same as apps are usually written: a fresh model and Trainer in every call

`independent` runs with transformers' own forwards of the experts, and once with flexray's in their place: that one tells
what federation costs, the others what it costs less the faster kernels. Rows are of different lengths: flexray's batches have no
padding; the others pad to the longest row of a batch, as their users do. Tokens are those of the rows, for everybody.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import flexray
from benchmarks import panels, pictures
from benchmarks.common import interleaved, machine, middle, table
from benchmarks.peers import ROOT, Flower, Independent, Peer, Sequential
from benchmarks.plain import State, Work
from benchmarks.starts import starts as starts_of
from flexray.config import Experiment
from flexray.data.clients import order
from flexray.data.corpus import Corpus
from flexray.models import backbone, tiny
from flexray.sim.job import Job
from flexray.sim.local.newcomers import start_of
from flexray.sim.local.trainer import rate
from flexray.sim.planning.plan import prepare
from flexray.sim.private.store import PrivateStore
from flexray.sim.run_folder import RunFolder

CLIENTS = 16
ACTORS = 4
EXPERTS = ("eager", "grouped_mm", "flexray")
TOLERANCE = 1e-3
"""One step left out of 20 would be more than ten times as much."""


@dataclass(frozen=True)
class Speed:
    """Training tokens per second: over all rounds, and without the first one, in which experts are selected; the whole call."""

    rounds: float
    later: float
    call: float


def experiment(rounds: int, steps: int, seats: int | str, cache: str) -> Experiment:
    """The embedded default with more clients than actors; scoring, which is not timed here, is kept short."""
    return Experiment(
        clients=CLIENTS, rounds=rounds, seats=seats, placement="pooled", train={"steps": steps}, storage={"cache": cache},
        evaluation={"every": None, "metrics": ["loss"]}, data={"max_test_rows": 4},
    )  # fmt: skip


def first_round(x: Experiment, folder: Path) -> tuple[Job, list[State], State, list[State]]:
    """flexray's own first round: the job, every client's start, the shared state after it, and every client's own."""
    flexray.simulate(x, folder)
    job, _ = prepare(x, {"CPU": ACTORS, "GPU": 0}, folder.absolute() / "private")
    store = PrivateStore(job.private, [client.name for client in job.clients], job.identity)
    saved = RunFolder(folder).load_server()
    assert saved is not None
    shared = start_of(x.algorithm, backbone.skeleton(x.model), x.seed)
    ends = [store.read(k, 0).weights for k in range(CLIENTS)]
    return job, [shared | own for own in starts_of(job)], saved[0].states[0].sent.weights, ends


def works_of(x: Experiment, job: Job, starts: Sequence[State]) -> list[Work]:
    """What each client does in the whole run."""
    corpus, train, lora = Corpus(job.corpus), x.train, x.algorithm.parts[0].config
    total = sum(len(client.train) for client in job.clients)
    assert train.clip is not None and train.steps is not None
    count = train.steps * train.batch

    def rows(client: int, round: int) -> list[Any]:
        picked = order(job.clients[client].train, x.seed, client, round, count)
        return [corpus.rows(picked[i : i + train.batch]) for i in range(0, len(picked), train.batch)]

    return [
        Work(
            model=str(tiny.folder()),
            lora_scale=lora.alpha / lora.rank,  # pyright: ignore[reportAttributeAccessIssue]
            rates=tuple(rate(train, train.lr, round, x.rounds) for round in range(x.rounds)),
            clip=train.clip,
            weight=len(job.clients[k].train) / total,
            start=start,
            rows=[rows(k, round) for round in range(x.rounds)],
        )
        for k, start in enumerate(starts)
    ]


def check(name: str, works: Sequence[Work], ours: tuple[State, list[State]], theirs: tuple[State, list[State]]) -> None:
    """The same work gives the same weights.

    Distances, not the largest difference of a single number: where a gradient is all but zero, Adam makes of its rounding
    a step of any size up to the rate.
    """
    pairs = [(ours[0], theirs[0], works[0].start), *zip(ours[1], theirs[1], (w.start for w in works), strict=True)]
    apart = max(_distance(mine, its) / _distance(mine, start) for mine, its, start in pairs)
    print(f"  {name}: weights differ by at most {apart:.1e} of the way that a round moved them")
    if not apart < TOLERANCE:
        sys.exit(f"{name} did not do the same work: weights differ by more than {TOLERANCE:.0e} of the way")


def _distance(x: State, y: State) -> float:
    """Between two states, over the trained numbers of the first."""
    return sum(float((t - y[name].view_as(t)).square().sum()) for name, t in x.items() if t.is_floating_point()) ** 0.5


def simulated(x: Experiment, folder: Path) -> Callable[[], Speed]:
    """One run of flexray per call."""
    made = iter(range(1_000_000))

    def run() -> Speed:
        started = perf_counter()
        rounds = flexray.simulate(x, folder / f"run-{next(made)}").rounds()
        call = perf_counter() - started
        tokens = [r["tokens"] for r in rounds]
        seconds = [r["seconds"] for r in rounds]
        return Speed(sum(tokens) / sum(seconds), sum(tokens[1:]) / sum(seconds[1:]), sum(tokens) / call)

    return run


def contestants(works: Sequence[Work], threads: int, python: Path) -> dict[str, Callable[[], Peer]]:
    """Every peer by name, not started yet. threads: of one process that has all of them."""
    made: dict[str, Callable[[], Peer]] = {
        f"independent, {experts}": partial(Independent, works, experts, ACTORS, 1) for experts in EXPERTS
    }
    made |= {f"one process, {experts}": partial(Independent, works, experts, 1, threads) for experts in EXPERTS[1:]}
    made |= {f"sequential, {n} threads": partial(Sequential, works, n, "grouped_mm") for n in (threads, 1)}
    if python.exists():
        ways = {"Flower": "plain", "Flower, Trainer": "trainer"}
        return made | {name: partial(Flower, works, ACTORS, python, how) for name, how in ways.items()}
    print(f"without Flower, as there is no {python}; run `make peers`")
    return made


def rated(peer: Peer, works: Sequence[Work], rounds: int) -> Callable[[], float]:
    """One run of a peer per call, in tokens per second; those that are slow and steady play fewer rounds."""
    played = rounds if isinstance(peer, Independent) else min(rounds, 1 if isinstance(peer, Sequential) else 3)
    return lambda: sum(work.tokens_in(played) for work in works) / peer.run(played)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="local steps per round")
    parser.add_argument("--seats", type=lambda s: s if s == "auto" else int(s), default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of a process that has all of them")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", nargs="+", choices=("independent", "one process", "sequential", "Flower"))
    parser.add_argument("--flower", type=Path, default=ROOT / ".peers" / "flower" / "bin" / "python", help="Flower's Python")
    pictures.add_option(parser)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps, options.repetitions = 2, 5, 1
    note = machine()
    print(note)
    with TemporaryDirectory() as folder:
        given = measure(options, Path(folder))
    report(given)
    rates = {"flexray": [s.rounds for s in given.pop("flexray")], **given}
    pictures.write(panels.throughput(rates), options.picture, note)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[Any]]:
    """What everybody gave in each repetition: flexray a Speed, others tokens per second."""
    x = experiment(options.rounds, options.steps, options.seats, str(folder / "cache"))
    job, starts, shared, own = first_round(x.model_copy(update={"rounds": 1}), folder / "first")
    works, layout = works_of(x, job, starts), job.layout
    tokens = sum(work.tokens_in(options.rounds) for work in works)
    print(
        f"{CLIENTS} clients × {options.rounds} rounds × {options.steps} steps × {x.train.batch} rows = {tokens} tokens;",
        end=" ",
    )
    print(
        f"flexray: {layout.actors} actors × {layout.seats} seats; padding: × {median(work.padding for work in works):.2f} positions"
    )
    chosen = {
        n: m
        for n, m in contestants(works, options.threads, options.flower).items()
        if n.startswith(tuple(options.peers or [""]))
    }
    peers = {name: make() for name, make in chosen.items()}
    for name, peer in peers.items():
        check(name, works, (shared, own), peer.run(1)[1:])
    runs: dict[str, Callable[[], Any]] = {"flexray": simulated(x, folder)}
    runs |= {name: rated(peer, works, options.rounds) for name, peer in peers.items()}
    given = interleaved(runs, options.repetitions)
    for peer in peers.values():
        peer.close()
    return given


def report(given: dict[str, list[Any]]) -> None:
    """Medians over repetitions of the ratio within each repetition."""
    ours: list[Speed] = given["flexray"]
    given = {name: theirs for name, theirs in given.items() if name != "flexray"}
    rows = [
        ("flexray, all rounds", middle([s.rounds for s in ours], ".0f"), "1"),
        ("flexray, without the first round", middle([s.later for s in ours], ".0f"), ""),
        ("flexray, the whole call: start of actors, rounds, scoring", middle([s.call for s in ours], ".0f"), ""),
    ]
    for name, theirs in given.items():
        ratio = [s.rounds / t for s, t in zip(ours, theirs, strict=True)]
        rows.append((name, middle(theirs, ".0f"), middle(ratio)))
    print(table(("", "training tokens/s: median (range)", "flexray, all rounds, over it"), rows))
    ideal = max(((median(t), name) for name, t in given.items() if name.startswith("independent")), default=None)
    if ideal:
        print(f"the ideal is the fastest of the independent ones: {ideal[1]}")


if __name__ == "__main__":
    main()
