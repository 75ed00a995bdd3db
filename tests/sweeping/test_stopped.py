"""Sweeps of twelve trials by the command line: stopped in the middle by signals, and with a process killed, they go on to the same."""

import hashlib
import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
import yaml

import flexray
from flexray.sim.run_folder import RunFolder

pytestmark = pytest.mark.slow

CONFIG = {
    "rounds": 6,
    "clients": 3,
    "seats": 1,
    "algorithm": "fedavg",
    "data": {"max_train_rows": 60, "max_valid_rows": 8, "max_test_rows": 4},
    "train": {"steps": 15, "batch": 8, "optimizer": "sgd", "clip": None, "schedule": "constant"},
    "sweep": {"over": {"train.lr": [0.01, 0.02, 0.03, 0.05, 0.1, 0.2], "seed": [0, 1]}},
}
COMMAND = [sys.executable, "-m", "flexray", "sweep"]


@pytest.fixture(scope="module")
def file(cache, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("asked") / "sweep.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, "storage": {"cache": str(cache)}}))
    return file


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory) -> flexray.Sweep:
    """Never stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run([*COMMAND, str(file), "--out", str(out)], check=True, timeout=300)
    return flexray.load_sweep(out)


def started(file: Path, out: Path, finished: int) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """A sweep of which so many trials are finished and others are under way, and all processes below it."""
    with said(out).open("w") as told:
        process = subprocess.Popen([*COMMAND, str(file), "--out", str(out)], start_new_session=True, stdout=told)
    deadline = monotonic() + 120
    while monotonic() < deadline and not (
        len(list(out.glob("runs/*/summary.json"))) >= finished and len(begun(out)) >= finished + 2
    ):
        sleep(0.05)
    return process, psutil.Process(process.pid).children(recursive=True)


def said(out: Path) -> Path:
    """What the first command printed."""
    return out.with_suffix(".txt")


def begun(out: Path) -> list[str]:
    """Trials with a finished round."""
    return sorted({f.parts[-3] for f in out.glob("runs/*/rounds/*")} | {f.parts[-2] for f in out.glob("runs/*/rounds.parquet")})


def bits(out: Path) -> dict[str, str]:
    """Of every file of every finished trial."""
    folders = [file.parent for file in out.glob("runs/*/summary.json")]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    return {f.relative_to(out).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def played(out: Path) -> dict[str, list[dict]]:
    """By trial that is under way, the rows of its rounds that are committed, with the seconds that they took."""
    found = {}
    for name in begun(out):
        folder = RunFolder(out / "runs" / name)
        if not (folder.path / "summary.json").exists() and (saved := folder.load_server()):
            found[name] = [row for row in folder.table("rounds") if row["round"] <= saved[1]]
    return found


def scores(made: flexray.Sweep) -> list[dict]:
    """What came out, without the times."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in made.rounds().to_pylist()]


def gone(processes: list[psutil.Process]) -> bool:
    """Workers within seconds; Ray's own agents look whether their node is still there only now and then."""
    _, alive = psutil.wait_procs(processes, timeout=120)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_stopped_in_the_middle_it_goes_on_to_the_same(file, whole, tmp_path, how):
    out = tmp_path / "out"
    process, below = started(file, out, 3)
    process.send_signal(how)
    assert process.wait(60) == (-how if how == signal.SIGKILL else 130)
    assert gone(below)
    kept, under_way = bits(out), played(out)
    assert under_way and len(kept) > 3
    subprocess.run([*COMMAND, "--resume", str(out)], check=True, timeout=300)
    assert {name: found for name, found in bits(out).items() if name in kept} == kept
    for name, rows in under_way.items():  # the same rounds, not played again: they still took the same seconds
        assert rows and RunFolder(out / "runs" / name).table("rounds")[: len(rows)] == rows, name
    made = flexray.load_sweep(out)
    assert made.count("finished") == 12
    assert made.settings == whole.settings
    assert scores(made) == scores(whole)


def test_a_killed_trial_is_reported_and_tried_again(file, whole, tmp_path):
    out = tmp_path / "out"
    process, below = started(file, out, 1)
    victim = next(p for p in below if "ImplicitFunc" in " ".join(_title(p)))
    victim.kill()
    assert process.wait(300) == 1
    made = flexray.load_sweep(out)
    assert (made.count("finished"), made.count("failed")) == (11, 1)
    (why,) = made.failures.values()
    assert why == "its process died: it was killed, or the memory was full"
    assert "raylet" not in said(out).read_text()
    again = subprocess.run([*COMMAND, "--resume", str(out), "--json"], check=True, timeout=300, stdout=subprocess.PIPE)
    assert json.loads(again.stdout)["trials"] == {"finished": 12, "stopped": 0, "failed": 0, "left": 0}
    assert scores(flexray.load_sweep(out)) == scores(whole)


def _title(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
