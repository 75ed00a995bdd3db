"""What one more client actor costs in memory, and that the frozen backbone is there once however many actors there are.

A random MoE is saved by `save_pretrained`, one run is made for each number of actors, and all its actors are looked at
while they live, after a finished training round. Own memory (USS) are the pages that nobody else has; of shared pages
each process is charged its share (PSS), so that sums of it count everything once.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import flexray
from benchmarks.common import MIB, machine, mapped, smaps, table
from flexray import cluster
from flexray.config import Experiment
from flexray.models import tiny
from flexray.sim.events import RoundDone
from flexray.sim.planning.plan import Plan

ACTORS = (1, 2, 4)


def save_model(folder: Path) -> None:
    """Some 70 M parameters with the built-in tokenizer, in float32: 280 MiB, nearly all of it experts."""
    shutil.copytree(tiny.folder(), folder)
    made = tiny.config(
        1280, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8, num_experts=24,
        moe_intermediate_size=448, shared_expert_intermediate_size=512, intermediate_size=512, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    tiny.save(tiny.build(0, made), folder, "float32")


def experiment(model: Path, cache: Path, clients: int) -> Experiment:
    return Experiment(
        clients=clients, rounds=2, placement="one_per_client", model={"path": str(model)}, storage={"cache": str(cache)},
        train={"steps": 3}, evaluation={"every": 10_000, "metrics": ["loss"]},
        data={"max_train_rows": 64, "max_valid_rows": 4, "max_test_rows": 4},
    )  # fmt: skip


class Look:
    """Watches a run, and measures its actors after its last training round."""

    def __init__(self, cache: Path):
        self.cache, self.plan, self.actors = cache, None, []

    def __call__(self, what: Any) -> None:
        if isinstance(what, Plan):
            self.plan = what
        if isinstance(what, RoundDone) and what.report.round == 1:
            (weights,) = self.cache.glob("*/backbone.safetensors")
            self.actors = [smaps(pid) | {"backbone": mapped(pid, weights)} for pid in _actors()]


def _actors() -> list[int]:
    """Those below this process: Ray's workers are, and are named after the actor that they hold."""
    return [p.pid for p in psutil.Process().children(recursive=True) if (p.cmdline() or [""])[0].startswith("ray::ClientHost")]


def measured(model: Path, folder: Path, clients: int) -> tuple[Plan, list[dict[str, Any]]]:
    """One run with so many actors: its plan, and the memory of each actor."""
    look = Look(folder / "cache")
    with cluster.start("local", num_cpus=clients):
        flexray.simulate(experiment(model, folder / "cache", clients), folder / f"run-{clients}", watch=look)
    assert look.plan is not None and len(look.actors) == clients
    return look.plan, look.actors


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(machine())
    with TemporaryDirectory() as name:
        model, rows, own, plan = Path(name) / "model", [], 0.0, None
        save_model(model)
        for clients in ACTORS:
            plan, actors = measured(model, Path(name), clients)
            backbone = [sum(a["backbone"][kind] for a in actors) for kind in ("rss", "pss", "copied")]
            own = fmean(a["uss"] for a in actors) - (backbone[0] if clients == 1 else 0)  # one mapper's pages are its own
            rows.append([str(clients), *map(mib, (own, sum(a["pss"] for a in actors), *backbone))])
    assert plan is not None
    state = 16 * (plan.private + plan.shared)
    print(
        f"backbone: {mib(plan.bytes_backbone)} MiB; what a client trains, with gradients and AdamW's moments: {mib(state)} MiB"
    )
    head = ("actors", "own memory of one", "all together", "backbone mapped", "backbone, each page once", "backbone copied")
    print(table(head, rows))
    print(f"one more actor: {mib(own)} MiB, without what it trains {mib(own - state)} MiB = {(own - state) / 1e6:.0f} MB")


def mib(size: float) -> str:
    return f"{size / MIB:.0f}"


if __name__ == "__main__":
    main()
