"""Does the private expert pay? FLEx against the frozen base, its own shared part, and separate FedAvg and local runs.

Equal seeds, rounds, steps and rows; trained parameters are stated. `fedavg` trains the same shared adapters, `fedavg wide`
adapters of so high a rank that a client trains as many numbers as with FLEx.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import machine, table
from flexray import api, cluster, config

CONFIGS = Path(__file__).parent.parent / "configs"
METHODS = {
    "flex": (),
    "flex, the paper's start": ("algorithm.graft.start=copy", "algorithm.gate.init=router_row"),
    "fedavg": ("algorithm.name=fedavg",),
    "fedavg wide": ("algorithm.name=fedavg", "algorithm.lora.rank={wide}", "algorithm.lora.alpha={alpha}"),
    "local": ("algorithm.name=local",),
}


def wide_rank(file: Path | None, sets: tuple[str, ...]) -> int:
    """The rank at which FedAvg's adapters have as many numbers as FLEx trains per client."""
    flex = api.make_plan(config.load(file, sets))
    return round(flex.experiment.algorithm.shared[0].config.rank * (flex.shared + flex.private) / flex.shared)


def runs(
    file: Path | None, sets: tuple[str, ...], seeds: int, methods: list[str]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each method with the summaries of its seeds."""
    rank = wide_rank(file, sets)
    for name in methods:
        chosen = tuple(s.format(wide=rank, alpha=2 * rank) for s in METHODS[name])
        with TemporaryDirectory() as folder:
            found = [
                api.simulate(config.load(file, (*sets, *chosen, f"seed={seed}", "evaluation.every=null")), f"{folder}/{seed}")
                for seed in range(seeds)
            ]
        yield name, [run.summary for run in found]


def row(name: str, summaries: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, with the standard deviation of the personalised loss."""
    losses = [s["mean"]["personal"]["loss"] for s in summaries]
    spread = f" ± {stdev(losses):.3f}" if len(losses) > 1 else ""
    wins = [sum(c["personal"]["loss"] < min(c["base"]["loss"], c["shared"]["loss"]) for c in s["clients"]) for s in summaries]
    parameters = summaries[0]["parameters"]
    return [
        name,
        f"{parameters['shared']:,} + {parameters['private_per_client']:,}",
        *(f"{fmean(s['mean'][view]['loss'] for s in summaries):.3f}" for view in ("base", "shared")),
        f"{fmean(losses):.3f}{spread}",
        f"{100 * fmean(s['mean']['personal']['exact_match'] for s in summaries):.1f}",
        " · ".join(f"{won}/{len(s['clients'])}" for won, s in zip(wins, summaries, strict=True)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dolly", metavar="FOLDER", help="configs/dolly.yaml on this folder instead of the embedded default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one; repeatable")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further settings of every run")
    asked = parser.parse_args()
    file = CONFIGS / "dolly.yaml" if asked.dolly else None
    sets = (*asked.set, *((f"data.path={asked.dolly}",) if asked.dolly else ()))
    head = [
        "method",
        "trained: shared + private",
        "base",
        "shared only",
        "personalised",
        "exact match %",
        "clients won, per seed",
    ]
    with cluster.start("local"):
        rows = [row(name, summaries) for name, summaries in runs(file, sets, asked.seeds, asked.method or list(METHODS))]
    print(machine())
    print(table(head, rows))


if __name__ == "__main__":
    main()
