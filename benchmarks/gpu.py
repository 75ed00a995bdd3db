"""Many clients on one GPU against plain LoRA fine-tuning: the same frozen MoE, the same rows in a step, the same steps.

    python -m benchmarks.gpu [--shape qwen] [--clients 4 16 64] [--methods fedavg flex flex-full] [--seats 16] [--folder DIR]
    python -m benchmarks.gpu --shape tiny        # seconds on a CPU: to see that it works

qwen is the shape of Qwen1.5-MoE-A2.7B (14.3 B parameters, 28.6 GB in bfloat16) with random weights, made on the device and kept
in FOLDER as flexray keeps a converted model. All rows have as many tokens, half of them the response, so that nobody pads.

fedavg      LoRA r = 32 on q, k, v of every client, nothing else: the federation's own price
flex        the same, and in every block a private expert: adapters r = 32 over a grafted one, and a gate
flex-full   the same with whole copies of the grafted experts (208 M numbers of each client, 3.3 GB with their moments)
plain       transformers' model with one LoRA r = 32 on q, k, v in a loop of one's own, with as many rows in a step as all
            seats together

First one client's fedavg and plain take the same rows: their losses must agree. Needs torch, transformers, tokenizers,
safetensors, numpy, pyarrow, pydantic, pyyaml and filelock; neither ray nor datasets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import panels, pictures
from benchmarks.common import empty, machine, peak, table, wait
from benchmarks.plain_lora import Plain, Row
from benchmarks.random_moe import SHAPES, save_model, save_rows
from flexray.config import Experiment
from flexray.data.clients import order
from flexray.data.corpus import Corpus
from flexray.errors import ConfigError, RunError
from flexray.models import backbone as backbones
from flexray.models.tokenizer import Tokenizer
from flexray.sim.events import RoundDone
from flexray.sim.job import Job
from flexray.sim.local.newcomers import start_of
from flexray.sim.planning.layout import available
from flexray.sim.planning.plan import Plan, prepare
from flexray.sim.pool import InlinePool
from flexray.sim.run import run
from flexray.state import State

RANK = {"rank": 32, "alpha": 64.0}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg", "lora": RANK},
    "flex": {"name": "flex", "lora": RANK, "graft": {"select": "random", "train": "lora", **RANK}},
    "flex-full": {"name": "flex", "lora": RANK, "graft": {"select": "random", "train": "full"}},
}
ROWS = 40
"""Of each client, before a tenth is held out to validate and a tenth to test."""
WARM = 3
"""Steps of plain that do not count; of flexray it is the first round."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Of the mean loss."""


@dataclass(frozen=True)
class Setting:
    """What all cases share."""

    options: argparse.Namespace
    folder: Path
    device: str
    dtype: str

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def backbone(self) -> Path:
        return self.folder / "backbone"


@dataclass(frozen=True)
class Speed:
    """Training tokens per second (of flexray also without reading and writing private state), the peak in bytes, and the loss."""

    rate: float
    training: float
    peak: int
    loss: float


def experiment(s: Setting, method: str, clients: int, seats: int | str, rounds: int, steps: int) -> Experiment:
    o, rows = s.options, s.folder / f"rows-{clients}-{s.options.tokens}.jsonl"
    if not rows.exists():
        save_rows(rows, Tokenizer(s.model), o.tokens, ROWS * clients)
    return Experiment(
        clients=clients, rounds=rounds, algorithm=METHODS[method], placement="pooled",
        seats=min(seats, clients) if isinstance(seats, int) else seats,
        model={"path": str(s.model), "dtype": s.dtype}, storage={"cache": str(s.folder / "cache")}, resources={"backend": "inline"},
        train={"steps": steps, "batch": o.batch, "lr": 1e-4, "final_lr": 1e-5, "recompute": o.recompute},
        evaluation={"every": None, "metrics": ["loss"], "inside_rows": 0},
        data={"path": str(rows), "partition": "iid", "max_length": o.tokens},
    )  # fmt: skip


@contextmanager
def planned(s: Setting, x: Experiment) -> Iterator[tuple[Job, Plan, Path]]:
    """The job and the plan, with the model that was made here in the place of a converted one; and a folder for the run."""
    empty(s.device)  # what a plan measures, it measures in another process
    with TemporaryDirectory(dir=s.folder) as folder, patch.object(backbones, "prepare", lambda *_: s.backbone):
        yield *prepare(x, available(torch.cuda.device_count()), Path(folder) / "private"), Path(folder)


def federated(s: Setting, x: Experiment) -> tuple[Speed, Plan]:
    """All rounds of a run in this process; the first one, in which the clients are new, does not count."""
    with planned(s, x) as (job, plan, folder):
        empty(s.device)
        rounds = (event.report for event in run(job, InlinePool, folder) if isinstance(event, RoundDone))
        reports = [next(rounds) for _ in range(x.rounds)]
        most = peak(s.device)
        rounds.close()  # before everybody is scored
    timed = reports[1:] or reports
    tokens = sum(r.tokens for r in timed)
    training = tokens / sum(r.seconds_training for r in timed)
    return Speed(tokens / sum(r.seconds for r in timed), training, most, reports[0].loss), plan


def plain(s: Setting, start: State, steps: list[list[Row]], warm: int) -> Speed:
    """So many steps, of which the first do not count."""
    empty(s.device)
    model = backbones.load(s.backbone, s.device).model
    loop, losses = Plain(model, start, RANK["alpha"] / RANK["rank"], s.options.experts, s.options.recompute), []
    began = perf_counter()
    for i, rows in enumerate(steps):
        if i == warm:
            wait(s.device)
            began = perf_counter()
        losses.append(loop.step(rows))
    wait(s.device)
    rate = sum(len(tokens) for rows in steps[warm:] for tokens, _ in rows) / (perf_counter() - began)
    return Speed(rate, rate, peak(s.device), float(torch.stack(losses).mean()))


def start_rows(job: Job, per_step: int, steps: int) -> tuple[State, list[list[Row]]]:
    """Where plain begins, and what it reads: the first client's rows in flexray's own order if it reads no more than these."""
    x, corpus = job.experiment, Corpus(job.corpus)
    start = start_of(x.algorithm, backbones.skeleton(x.model), x.seed)
    rows = order(job.clients[0].train, x.seed, 0, 0, per_step * steps)
    return start, [corpus.rows(rows[i : i + per_step]) for i in range(0, len(rows), per_step)]


def check(s: Setting) -> None:
    """One client's fedavg is plain LoRA fine-tuning: the same rows give the same losses."""
    x = experiment(s, "fedavg", 1, 1, 1, s.options.steps)
    ours, _ = federated(s, x)
    with planned(s, x) as (job, _, _):
        theirs = plain(s, *start_rows(job, s.options.batch, s.options.steps), 0)
    apart = abs(ours.loss - theirs.loss) / theirs.loss
    print(f"the same rows: mean loss {ours.loss:.5f} by flexray's fedavg, {theirs.loss:.5f} by plain")
    if apart > TOLERANCE[s.dtype]:
        sys.exit(f"plain did not do the same work: losses differ by {apart:.1e}")


def measured(s: Setting, method: str, clients: int, peers: dict[int, list[Speed]]) -> dict[str, Any]:
    """One method with so many clients: its figures, or why it does not fit. peers: plain's, by seats."""
    o, row = s.options, {"method": method, "clients": clients}
    try:
        found = [federated(s, experiment(s, method, clients, o.seats, o.rounds + 1, o.steps)) for _ in range(o.repetitions)]
        speeds, plan = [speed for speed, _ in found], found[0][1]
        seats = plan.layout.seats
        if seats not in peers:
            with planned(s, experiment(s, "fedavg", 1, 1, 1, 1)) as (job, _, _):
                work = start_rows(job, o.batch * seats, o.steps + WARM)
            peers[seats] = [plain(s, *work, WARM) for _ in range(o.repetitions)]
    except (ConfigError, RunError, torch.OutOfMemoryError) as e:
        return {**row, "refused": f"{type(e).__name__}: {str(e).splitlines()[0]}"}
    own, other = median(v.rate for v in speeds), median(v.rate for v in peers[seats])
    return {
        **row, "seats": seats, "tokens": seats * o.batch * o.tokens, "private": plan.private, "rate": own,
        "training": median(v.training for v in speeds), "plain": other, "ratio": own / other,
        "peak": max(v.peak for v in speeds), "predicted": plan.memory.device, "plain_peak": max(v.peak for v in peers[seats]),
    }  # fmt: skip


def shown(row: dict[str, Any]) -> list[str]:
    if "refused" in row:
        return [row["method"], str(row["clients"]), row["refused"], *[""] * (len(HEAD) - 3)]
    memory = [row["peak"], row["predicted"], row["plain_peak"]]
    return [
        row["method"], str(row["clients"]), str(row["seats"]), f"{row['tokens']:,}", f"{row['private'] / 1e6:.1f}",
        *(f"{row[name]:,.0f}" for name in ("rate", "training", "plain")), f"{row['ratio']:.2f}",
        *(f"{size / 1e9:.1f}" if row["peak"] else "–" for size in memory),
    ]  # fmt: skip


HEAD = (
    "method", "clients", "seats", "tokens in a step", "private numbers of a client, M", "tokens/s", "local training alone",
    "plain, tokens/s", "over plain", "peak, GB", "planned, GB", "plain's peak, GB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--seats", type=_seats, default=16, help="at most so many clients in one forward, or auto")
    parser.add_argument("--batch", type=int, default=1, help="rows of a client in a step")
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    parser.add_argument("--steps", type=int, default=10, help="of a client in a round")
    parser.add_argument("--rounds", type=int, default=2, help="that count, after a first one that does not")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--recompute", action="store_true", help="activations made again in the backward, by both")
    parser.add_argument("--experts", default="grouped_mm", help="transformers' forward of the experts, for plain")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), help="float32 for tiny on a CPU, else bfloat16")
    parser.add_argument("--folder", type=Path, help="where the model is kept, and all else lies meanwhile; 40 GB for qwen")
    pictures.add_option(parser)
    options = parser.parse_args()
    if options.shape == "tiny":
        options.clients, options.tokens, options.steps, options.rounds, options.batch = [4], 48, 4, 1, 2
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = options.dtype or ("float32" if options.shape == "tiny" and device == "cpu" else "bfloat16")
    print(machine(), *([torch.cuda.get_device_name()] if device == "cuda" else []), sep="; ")
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        s = Setting(options, folder, device, dtype)
        began = perf_counter()
        save_model(options.shape, s.dtype, device, s.model, s.backbone)
        size = (s.backbone / backbones.WEIGHTS).stat().st_size
        print(f"the model is there after {perf_counter() - began:.0f} s: {size / 1e9:.2f} GB")
        check(s)
        rows, peers = [], dict[int, list[Speed]]()
        for clients in options.clients:
            for method in options.methods:
                rows.append(measured(s, method, clients, peers))
                print(" | ".join(shown(rows[-1])), flush=True)
    print(table(HEAD, map(shown, rows)))
    pictures.write(panels.gpu([row for row in rows if "refused" not in row]), options.picture, machine())


def _seats(text: str) -> int | str:
    return text if text == "auto" else int(text)


if __name__ == "__main__":
    main()
