"""Does it scale? Populations from 100 to 10,000, a cohort of 1,000, 1 to 4 actors, one node and two.

    python -m benchmarks.scale [--rounds 200] [--quick] [--only population cohort actors nodes] [--picture benchmarks/pictures/scale]

population  the same cohort of 100 out of ever more clients: seconds per round, and the memory of the driver and of every actor
            after each round, with its slope over the second half of the rounds
cohort      a cohort of 1,000 on the same machine
actors      the same rounds with 1, 2, 4 actors: efficiency = speed-up / actors, and the same server to the bit
nodes       the same rounds on one node with four CPUs and on two nodes (Ray's local cluster) with two each: the same server to the bit

Population and cohort take a small random MoE and rows made from a seed, so that what a client costs besides its training
shows; actors and nodes take the built-in model. Runs of populations end after their rounds, before everybody is scored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.numpy import load_file

import flexray
from benchmarks import panels, pictures
from benchmarks.common import interleaved, machine, middle, several_nodes, table
from benchmarks.look import Look, played
from flexray import cluster
from flexray.config import Experiment
from flexray.data import builtin
from flexray.models import tiny
from flexray.models.checkpoint import quiet

ROWS = 12
"""Of each client, before a tenth is held out to validate and a tenth to test."""


def save_rows(file: Path, clients: int) -> Path:
    """Rows for so many clients."""
    with file.open("w") as out:
        out.writelines(json.dumps(row) + "\n" for row in builtin.public_rows(0, ROWS * clients))
    return file


def save_model(folder: Path) -> Path:
    """A random MoE of 0.3 M parameters with the built-in tokenizer."""
    shutil.copytree(tiny.folder(), folder)
    made = tiny.config(
        1280, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, num_experts=4,
        moe_intermediate_size=64, shared_expert_intermediate_size=64, intermediate_size=64, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    with quiet():
        tiny.save(tiny.build(0, made), folder, "float32")
    return folder


def crowd(options: argparse.Namespace, folder: Path, clients: int, cohort: int) -> Experiment:
    """Many clients who do little each. The grafted expert is drawn, so that newcomers cost no more than others and rounds compare."""
    rows, model = folder / f"rows-{clients}.jsonl", folder / "model"
    return Experiment(
        clients=clients, cohort=cohort, rounds=options.rounds + 1, placement="pooled", seats=4, train={"steps": 2, "batch": 4},
        algorithm={"name": "flex", "graft": {"select": "random"}},
        model={"path": str(model if model.exists() else save_model(model))}, storage={"cache": str(folder / "cache")},
        data={"path": str(rows if rows.exists() else save_rows(rows, clients)), "partition": "iid"},
        evaluation={"every": 50, "clients": 20, "metrics": ["loss"], "inside_rows": 0},
    )  # fmt: skip


def few(options: argparse.Namespace, folder: Path, **more: Any) -> Experiment:
    """Few clients who do much each: the embedded default."""
    return Experiment(
        clients=16, rounds=options.few_rounds, placement="pooled", seats=1, train={"steps": options.few_steps},
        evaluation={"every": None, "metrics": ["loss"], "inside_rows": 0}, data={"max_valid_rows": 4, "max_test_rows": 4},
        **{"storage": {"cache": str(folder / "cache")}, **more},
    )  # fmt: skip


def populations(options: argparse.Namespace, folder: Path) -> dict[int, dict[str, list[float]]]:
    """A cohort of the same size out of each population: seconds of the rounds, and MiB after each."""
    looks = {}
    with cluster.start("local", num_cpus=options.cpus):
        for clients in options.populations:
            x = crowd(options, folder, clients, options.cohort)
            looks[clients] = played(x, folder / f"population-{clients}", Look(options.rounds))
    print(f"\nPopulation, a cohort of {options.cohort}, {options.rounds} rounds")
    print(table(POPULATION, [population_row(clients, look) for clients, look in looks.items()]))
    return {clients: {"seconds": look.later(), **look.mib} for clients, look in looks.items()}


POPULATION = (
    "clients", "s per round: median (range)", "newcomers per round", "tokens/s", "driver, MiB at the end", "driver, MiB per 100 rounds",
    "an actor, MiB at the end", "an actor, MiB per 100 rounds", "Ray itself, MiB per 100 rounds", "caller, MiB per 100 rounds",
)  # fmt: skip


def population_row(clients: int, look: Look) -> list[str]:
    newcomers, ends = look.newcomers[1:] or look.newcomers, {kind: values[-1] for kind, values in look.mib.items()}
    return [
        f"{clients:,}", middle(look.later()), f"{fmean(newcomers):.0f}",
        f"{sum(look.tokens) / sum(look.seconds):,.0f}", f"{ends['driver']:.0f}", f"{look.slope('driver'):+.2f}",
        f"{ends['actors']:.0f}", f"{look.slope('actors'):+.2f}", f"{look.slope('Ray'):+.2f}", f"{look.slope('caller'):+.2f}",
    ]  # fmt: skip


def large_cohort(options: argparse.Namespace, folder: Path) -> None:
    """Many clients in one round."""
    with cluster.start("local", num_cpus=options.cpus):
        x = crowd(options, folder, max(options.populations), options.large_cohort)
        look = played(x, folder / "large-cohort", Look(options.large_rounds))
    print(f"\nA cohort of {options.large_cohort:,}, {options.large_rounds} rounds")
    print(table(POPULATION, [population_row(max(options.populations), look)]))


@dataclass(frozen=True)
class Finished:
    """A whole run: seconds of its later rounds, and its server's weights."""

    seconds: float
    digest: str


def whole(x: Experiment, folder: Path) -> Finished:
    look = Look(x.rounds + 1, memory=False)
    run = flexray.simulate(x, folder, watch=look)
    tensors = load_file(run.path / "server.safetensors")
    digest = hashlib.sha256(b"".join(f"{name} {t.shape}".encode() + t.tobytes() for name, t in sorted(tensors.items())))
    shutil.rmtree(folder)
    return Finished(sum(look.later()), digest.hexdigest())


def check(given: dict[str, list[Finished]]) -> None:
    """All runs ended with the same server."""
    digests = {done.digest for own in given.values() for done in own}
    if len(digests) > 1:
        sys.exit(
            f"the server's weights are not the same: {len(digests)} different ones of {sum(map(len, given.values()))} runs"
        )
    print(f"the server's weights of all {sum(map(len, given.values()))} runs: the same bits ({digests.pop()[:12]})")


def actors(options: argparse.Namespace, folder: Path) -> dict[int, list[float]]:
    """The efficiency of every repetition, by the number of actors."""

    def play(count: int) -> Finished:
        with cluster.start("local", num_cpus=count):
            return whole(few(options, folder), folder / f"actors-{count}")

    given = interleaved({str(n): lambda n=n: play(n) for n in options.actors}, options.repetitions)
    one = [done.seconds for done in given[str(options.actors[0])]]
    found = {
        n: [a / done.seconds * options.actors[0] / n for a, done in zip(one, given[str(n)], strict=True)]
        for n in options.actors
    }
    rows = [(str(n), middle([d.seconds for d in given[str(n)]]), middle(found[n])) for n in options.actors]
    print(f"\nActors, {options.few_rounds - 1} rounds of 16 clients × {options.few_steps} steps × 8 rows")
    print(table(("actors", "s: median (range)", "efficiency: median (range)"), rows))
    check(given)
    return found


def nodes(options: argparse.Namespace, folder: Path) -> dict[int, list[float]]:
    """Seconds of every repetition, by the number of nodes."""

    def play(count: int) -> Finished:
        x = few(options, folder, storage={"cache": str(folder / "cache"), "private": str(folder / f"private-{count}")})
        with (
            TemporaryDirectory(prefix="fr") as temporary,
            several_nodes(count, options.cpus // count, Path(temporary)) as address,
        ):
            joined = x.model_copy(update={"resources": x.resources.model_copy(update={"address": address})})
            done = whole(joined, folder / f"nodes-{count}")
        shutil.rmtree(folder / f"private-{count}")
        return done

    given = interleaved({str(n): lambda n=n: play(n) for n in options.nodes}, options.repetitions)
    print(f"\nNodes with {options.cpus} CPUs together")
    print(table(("nodes", "s: median (range)"), [(n, middle([d.seconds for d in own])) for n, own in given.items()]))
    check(given)
    return {int(n): [d.seconds for d in own] for n, own in given.items()}


PARTS = {"population": populations, "cohort": large_cohort, "actors": actors, "nodes": nodes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=200, help="of each population")
    parser.add_argument("--populations", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--large-cohort", type=int, default=1000)
    parser.add_argument("--large-rounds", type=int, default=8)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cpus", type=int, default=4, help="for populations and for all nodes together")
    parser.add_argument("--repetitions", type=int, default=3, help="of actors and nodes, interleaved")
    parser.add_argument(
        "--quick", action="store_true", help="small populations, few rounds, one repetition: to see that it works"
    )
    pictures.add_option(parser)
    options = parser.parse_args()
    options.few_rounds, options.few_steps = (2, 2) if options.quick else (4, 8)
    if options.quick:
        options.rounds, options.populations, options.cohort = min(options.rounds, 6), [100, 1000], 20
        options.large_cohort, options.large_rounds, options.actors, options.repetitions = 200, 2, [1, 2], 1
    print(note := machine())
    with TemporaryDirectory(prefix="flexray-scale-") as folder:
        found: dict[str, Any] = {name: PARTS[name](options, Path(folder)) for name in options.only}
    pictures.write(panels.scale(**found), options.picture, note)


if __name__ == "__main__":
    main()
