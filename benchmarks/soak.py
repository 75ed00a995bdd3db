"""Rounds for an hour, in which things are killed: is anything lost, does memory grow, is the object store emptied?

    python -m benchmarks.soak [--minutes 60] [--every 20] [--seed 0]

Half of the time a run is disturbed: `flexray simulate` goes on in a process of its own, and at random moments, --every seconds apart in the
mean, SIGKILL hits a client actor, the driver actor, or the command itself (as would the machine's OOM killer); whenever it ends, it is
resumed, as a user would. Then the same run is played undisturbed, as many rounds as the first one got to, and compared: the server's state
and every client's private state must be the same bytes, each round must be in the tables once. Memory (own pages of the driver, of the
actors, of Ray, after each round, as a slope over the second half) and the object store (bytes in use after each round) are looked at in
the undisturbed one, as processes must live for that.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import psutil

import flexray
from benchmarks.common import machine, table
from benchmarks.look import KINDS, Enough, Look
from flexray import cluster
from flexray.config import Experiment
from flexray.sim.events import RoundDone
from flexray.sim.run_folder import RunFolder

TARGETS = {"actor": ("ray::ClientHost",), "driver": ("ray::Driver",), "command": ()}
WEIGHTS = {"actor": 6, "driver": 2, "command": 2}
ROUNDS = 1_000_000
LEAVE_SECONDS = 60.0


def settings(folder: Path) -> list[str]:
    """The run, as `--set` takes it: the built-in model, some clients of whom half take part in a round."""
    values = {
        "rounds": ROUNDS, "clients": 12, "cohort": 6, "placement": "pooled", "seats": 1, "resources.cpu_per_client": 1, "train.steps": 2,
        "train.schedule": "constant", "data.max_train_rows": 64, "data.max_valid_rows": 4, "data.max_test_rows": 4,
        "evaluation.every": 25, "evaluation.inside_rows": 0, "evaluation.metrics": "[loss]", "tracking": "[]",
        "storage.cache": folder / "cache",
    }  # fmt: skip
    return [f"{key}={value}" for key, value in values.items()]


@dataclass
class Disturbed:
    """What happened to the run that was disturbed."""

    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    left: int = 0
    """Processes of Ray that outlived the command by a minute."""


def disturbed(folder: Path, out: Path, seconds: float, every: float, rng: random.Random) -> Disturbed:
    """Plays, kills and resumes for so long; at the end the command is asked to stop, by SIGTERM, as background jobs ignore SIGINT."""
    found, until, sets = Disturbed(), monotonic() + seconds, [part for s in settings(folder) for part in ("--set", s)]
    start = ["simulate", *sets, "--out", str(out)]
    command = _started(start, folder)
    due = monotonic() + rng.expovariate(1 / every)
    while monotonic() < until:
        sleep(0.1)
        if command.poll() is not None:
            found.exits[command.returncode] += 1
            found.left += _gone(command.pid)
            begun = (out / "config.yaml").exists()
            found.resumed += begun
            command = _started(["simulate", "--resume", str(out)] if begun else start, folder)
        elif monotonic() > due:
            what = rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
            found.kills[what] += _killed(command, what, rng)
            due = monotonic() + rng.expovariate(1 / every)
    command.terminate()
    found.exits[command.wait(LEAVE_SECONDS)] += 1
    found.left += _gone(command.pid)
    return found


def _started(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "log.txt", "ab") as log:
        marked = os.environ | {"SOAK": str(folder)}  # inherited by all that it starts, so that nothing else is ever killed
        return subprocess.Popen([sys.executable, "-m", "flexray", *arguments], stdout=log, stderr=log, env=marked)


def _killed(command: subprocess.Popen[bytes], what: str, rng: random.Random) -> int:
    """One of them, if there is any."""
    if what == "command":
        command.kill()
        return 1
    among = [p for p in _family(command.pid) if p.name().startswith(TARGETS[what]) or _title(p).startswith(TARGETS[what])]
    if among:
        with suppress(psutil.NoSuchProcess):
            rng.choice(sorted(among, key=lambda p: p.pid)).kill()
            return 1
    return 0


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""


def _gone(pid: int) -> int:
    """Waits for what the command started, by the mark in its environment; gives how many are still there, and ends these."""
    until = monotonic() + LEAVE_SECONDS
    while (left := _marked()) and monotonic() < until:
        sleep(0.5)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(left)


MARK = ""


def _marked() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SOAK") == MARK:
                found.append(process)
    return found


class Watched(Look):
    """Looks at the undisturbed run until the round is over that the other one had finished last."""

    store: list[float]
    """Objects in the object store after each round."""

    def __call__(self, what: Any) -> None:
        if isinstance(what, RoundDone):
            self.store = [*getattr(self, "store", []), _in_store()]
        super().__call__(what)


def _in_store() -> float:
    import ray
    from ray._private.internal_api import memory_summary

    here = ray.get_runtime_context().gcs_address
    told = re.search(r"Plasma memory usage (\d+) MiB, (\d+) objects", memory_summary(here, stats_only=True))
    return float(told[2]) if told else float("nan")


def state(run: Path, last: int) -> dict[str, str]:
    """Digests of the server, and of every client's newest private state up to a round."""
    files = {"server": run / "server.safetensors"}
    for own in sorted((run / "private").iterdir()):
        rounds = [int(f.stem.removeprefix("after-")) for f in own.glob("after-*.safetensors")]
        newest = max((r for r in rounds if r <= last), default=None)
        if newest is not None:
            files[own.name] = own / f"after-{newest:06d}.safetensors"
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def rows(run: Path) -> list[dict[str, Any]]:
    """The rounds, without what depends on the clock."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in RunFolder(run).table("rounds")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine(), flush=True)
    with TemporaryDirectory(prefix="soak") as name:
        global MARK
        MARK, folder, rng = name, Path(name), random.Random(options.seed)
        seconds = 30 * options.minutes
        found = disturbed(folder, folder / "disturbed", seconds, options.every, rng)
        played = rows(folder / "disturbed")
        print(
            f"disturbed: {len(played)} rounds in {seconds / 60:.0f} minutes; killed {dict(found.kills)}; exits {dict(found.exits)}, "
            f"resumed {found.resumed} times; {found.left} processes left behind",
            flush=True,
        )
        look = Watched(len(played))
        with cluster.start("local", num_cpus=4):
            with suppress(Enough):
                flexray.simulate(_experiment(folder), folder / "undisturbed", watch=look)
            report(folder, look, played, len(played) - 1)


def report(folder: Path, look: Watched, played: list[dict[str, Any]], last: int) -> None:
    """Whether both ended alike, and what the undisturbed one took; exits with 1 where anything was lost."""
    a, b = state(folder / "disturbed", last), state(folder / "undisturbed", last)
    same = played == rows(folder / "undisturbed") and a == b
    print(f"rounds, server and the private state of {len(a) - 1} clients: {'the same' if same else 'NOT THE SAME'}")
    per_hour = 36 / fmean(look.seconds)  # hundreds of rounds
    lines = []
    for kind in KINDS:
        end = look.mib[kind][-1]
        lines.append([kind, f"{end:.0f}", f"{look.slope(kind):+.2f}", f"{100 * look.slope(kind) * per_hour / end:+.2f} %"])
    print(table(("process", "MiB at the end", "MiB per 100 rounds", "of it, an hour"), lines))
    print(
        f"objects in the store after a round: at most {max(look.store):.0f}, in the last ten at most {max(look.store[-10:]):.0f}"
    )
    if not same:
        different = [name for name in {*a, *b} if a.get(name) != b.get(name)]
        raise SystemExit(f"lost: {', '.join(sorted(different)) or 'rows of the tables'}")


def _experiment(folder: Path) -> Experiment:
    from flexray.config import load

    return load(None, tuple(settings(folder)))


if __name__ == "__main__":
    main()
