"""Training tokens per second of a simulation, against no federation at all and against a sequential loop.

All do the same steps on the same rows from the same start, which is checked first: after one round their weights agree.
Then they take turns, and each turn's ratio counts.

    flexray      4 client actors, one thread each: the embedded default with FLEx
    independent  4 single-thread processes of plain PyTorch (plain.py): the ideal, as nobody waits for anybody
    sequential   one process with all threads, or with one, a fresh Trainer per client and round (sequential.py)

`independent` runs with transformers' own forwards of the experts, and once with flexray's in their place: that one tells
what federation costs, the others what it costs less the faster kernels.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import flexray
from benchmarks.common import interleaved, machine, middle, table
from benchmarks.peers import Independent, Sequential
from benchmarks.plain import State, Work
from flexray import cluster
from flexray.config import Experiment
from flexray.data.clients import order
from flexray.data.corpus import Corpus
from flexray.models import backbone, tiny
from flexray.sim.job import Job
from flexray.sim.newcomers import start_of
from flexray.sim.plan import prepare
from flexray.sim.run_folder import RunFolder
from flexray.sim.store import NEWCOMER, PrivateStore
from flexray.sim.trainer import rate

CLIENTS = 4
EXPERTS = ("eager", "grouped_mm", "flexray")
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Speed:
    """Training tokens per second: over all rounds, and without the first one, in which experts are selected; the whole call."""

    rounds: float
    later: float
    call: float


def experiment(rounds: int, steps: int, cache: str) -> Experiment:
    """The embedded default with as many clients as actors; scoring, which is not timed here, is kept short."""
    return Experiment(
        clients=CLIENTS, rounds=rounds, placement="one_per_client", train={"steps": steps}, storage={"cache": cache},
        evaluation={"every": 10_000, "metrics": ["loss"]}, data={"max_test_rows": 4},
    )  # fmt: skip


def first_round(x: Experiment, folder: Path) -> tuple[Job, list[State], State, list[State]]:
    """flexray's own first round: the job, every client's start, the shared state after it, and every client's own."""
    flexray.simulate(x, folder)
    job, _ = prepare(x, {"CPU": CLIENTS, "GPU": 0}, folder.absolute() / "private")
    store = PrivateStore(job.private, [client.name for client in job.clients])
    saved = RunFolder(folder).load_server()
    assert saved is not None
    shared = start_of(x.algorithm, backbone.skeleton(x.model), x.seed)
    starts, ends = ([_own(store, k, before) for k in range(CLIENTS)] for before in (NEWCOMER + 1, 1))
    return job, [shared | own for own in starts], saved[0].states[0].sent.weights, ends


def _own(store: PrivateStore, client: int, before: int) -> State:
    state = store.load(client, before)
    assert state is not None
    return state.weights


def works_of(x: Experiment, job: Job, starts: Sequence[State]) -> list[Work]:
    """What each client does in the whole run."""
    corpus, train, lora = Corpus(job.corpus), x.train, x.algorithm.parts[0].config
    total = sum(len(client.train) for client in job.clients)
    assert train.clip is not None

    def rows(client: int, round: int) -> list[Any]:
        picked = order(job.clients[client].train, x.seed, client, round, train.steps * train.batch)
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
    """The same work gives the same weights."""
    apart = [_apart(ours[0], theirs[0]), *(_apart(mine, its) for mine, its in zip(ours[1], theirs[1], strict=True))]
    moved = max(_apart(mine, work.start) for mine, work in zip(ours[1], works, strict=True))
    print(f"  {name}: weights differ by at most {max(apart):.1e} after a round that moved them by up to {moved:.1e}")
    if max(apart) > TOLERANCE:
        sys.exit(f"{name} did not do the same work: weights differ by more than {TOLERANCE:.0e}")


def _apart(x: State, y: State) -> float:
    """The largest difference of a trained number."""
    return max(float((t - y[name].view_as(t)).abs().max()) for name, t in x.items() if t.is_floating_point())


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


def contestants(works: Sequence[Work]) -> dict[str, Callable[[], Independent | Sequential]]:
    """Every peer by name, not started yet."""
    made: dict[str, Callable[[], Independent | Sequential]] = {
        f"independent, {experts}": lambda experts=experts: Independent(works, experts) for experts in EXPERTS
    }
    for threads in (len(os.sched_getaffinity(0)), 1):
        made[f"sequential, {threads} threads"] = lambda threads=threads: Sequential(works, threads, "eager")
    return made


def rated(peer: Independent | Sequential, works: Sequence[Work], rounds: int) -> Callable[[], float]:
    """One run of a peer per call, in tokens per second; the sequential ones, which are slow and steady, play one round."""
    played = rounds if isinstance(peer, Independent) else 1
    return lambda: sum(work.tokens_in(played) for work in works) / peer.run(played)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="local steps per round")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=("independent", "sequential"), default=["independent", "sequential"])
    options = parser.parse_args()
    print(machine())
    with TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    x = experiment(options.rounds, options.steps, str(folder / "cache"))
    before = perf_counter()
    with cluster.start("local", num_cpus=CLIENTS):
        print(f"Ray was up in {perf_counter() - before:.1f} s")
        first = x.model_copy(update={"rounds": 1})
        job, starts, shared, own = first_round(first, folder / "first")
        works = works_of(x, job, starts)
        tokens = sum(work.tokens_in(options.rounds) for work in works)
        print(f"{CLIENTS} clients × {options.rounds} rounds × {options.steps} steps × {x.train.batch} rows = {tokens} tokens")
        chosen = {name: make for name, make in contestants(works).items() if name.startswith(tuple(options.peers))}
        peers = {name: make() for name, make in chosen.items()}
        for name, peer in peers.items():
            check(name, works, (shared, own), peer.run(1)[1:])
        runs: dict[str, Callable[[], Any]] = {"flexray": simulated(x, folder)}
        runs |= {name: rated(peer, works, options.rounds) for name, peer in peers.items()}
        report(interleaved(runs, options.repetitions))
        for peer in peers.values():
            peer.close()


def report(given: dict[str, list[Any]]) -> None:
    """Medians over repetitions of the ratio within each repetition."""
    ours: list[Speed] = given.pop("flexray")
    rows = [
        ("flexray, all rounds", middle([s.rounds for s in ours], ".0f"), "1"),
        ("flexray, without the first round", middle([s.later for s in ours], ".0f"), ""),
        ("flexray, the whole call: start of actors, rounds, scoring", middle([s.call for s in ours], ".0f"), ""),
    ]
    for name, theirs in given.items():
        ratio = [s.rounds / t for s, t in zip(ours, theirs, strict=True)]
        rows.append((name, middle(theirs, ".0f"), middle(ratio)))
    print(table(("", "training tokens/s: median (range)", "flexray, all rounds, over it"), rows))
    best = max((median(t), name) for name, t in given.items() if name.startswith("independent"))[1]
    print(f"the ideal is the fastest of the independent ones: {best}")


if __name__ == "__main__":
    main()
