"""Run folders made by hand: as a run leaves them, of any size, with numbers that a test can reckon."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from flexray.sweeping.records import Record, Records, write_spec
from flexray.sweeping.spec import read

METRICS = {
    "loss": {"title": "loss", "less": True, "scale": 1.0, "decimals": 3, "shown": True},
    "perplexity": {"title": "perplexity", "less": True, "scale": 1.0, "decimals": 2, "shown": False},
    "exact_match": {"title": "exact match %", "less": False, "scale": 100, "decimals": 1, "shown": True},
}


def make(
    path: Path, *, method: str = "flex", clients: int = 2, rounds: int = 2, played: int | None = None, names: Sequence[str] = (),
    labels: int = 3, layers: int = 2, experts: int = 4, inside: bool = True, seed: int = 0, better: float = 0.5, seconds: float = 1.0,
) -> Path:  # fmt: skip
    """A folder. played: rounds so far, where the run is not finished. A client i has base loss 2 + i / clients, and loses
    `better` · round / rounds of it; exact match is 1 / (1 + loss)."""
    (path / "bytes").mkdir(parents=True)
    names = list(names) or [f"client-{i}" for i in range(clients)]
    done = rounds if played is None else played
    config = {"seed": seed, "rounds": rounds, "algorithm": {"name": method}, "evaluation": {"split": "test"}, "plugins": {}}
    (path / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    packages = {"flexray": "0.1.0", "torch": "2.13.0"}
    (path / "versions.json").write_text(
        json.dumps({"python": "3.11.7", "machine": "x", "packages": packages, "files_sha256": {}})
    )
    dealt = [
        {"client": name, "train": 10 * labels, "valid": 4, "test": 8, "dropped": 0, "rows_sha256": str(i),
         "labels": {f"label {k}": 10 + (5 if k == i % labels else 0) for k in range(labels)}}
        for i, name in enumerate(names)
    ]  # fmt: skip
    (path / "clients.json").write_text(json.dumps(dealt))
    unfinished = played is not None
    write(path, "rounds", [of_round(r, clients, seconds) for r in range(done)], unfinished)
    at = sorted({0, *range(0, done + 1, max(1, done // 10)), done})
    write(path, "clients", [row for r in at for row in scores(r, rounds, names, better)], unfinished)
    write(path, "evaluations", [{"round": r, "seconds": 0.5, "split": "test", "when": "before_steps"} for r in at], unfinished)
    if inside:
        write(path, "inside", [row for r in at for row in looks(r, names, layers, experts)], parts=True)
    if not unfinished:
        (path / "summary.json").write_text(json.dumps({"algorithm": method, "metrics": METRICS}))
    return path


def of_round(r: int, clients: int, seconds: float = 1.0) -> dict:
    """Loss 3 / (1 + r); 1000 bytes up and 2000 down a client; one second of training, a tenth of exchange, none of waiting."""
    return {
        "round": r, "loss": 3 / (1 + r), "clients": clients, "tokens": 100, "bytes_up": 1000 * clients, "bytes_down": 2000 * clients,
        "seconds": 1.1 * seconds, "seconds_training": seconds, "seconds_communication": 0.1 * seconds, "seconds_waiting": 0.0,
    }  # fmt: skip


def scores(r: int, rounds: int, names: Sequence[str], better: float) -> list[dict]:
    """The base in round 0 only."""
    rows = []
    for i, name in enumerate(names):
        base = 2 + i / len(names)
        gained = better * r / rounds
        for view, loss in {"base": base, "shared": base - gained / 2, "personal": base - gained}.items():
            if view != "base" or r == 0:
                found = {"loss": loss, "perplexity": float(np.exp(loss)), "exact_match": 1 / (1 + loss)}
                rows += [
                    {"round": r, "client": i, "name": name, "view": view, "metric": metric, "value": value, "split": "test"}
                    for metric, value in found.items()
                ]
    return rows


def looks(r: int, names: Sequence[str], layers: int, experts: int) -> list[dict]:
    """Each client has half of all tokens at one expert, its own number's, which it has grafted; drift is 0.1 a round and layer."""
    rows = []
    for i, name in enumerate(names):
        for layer in range(layers):
            own = (i + layer) % experts
            load = [1.0 if e == own else 1 / (experts - 1) for e in range(experts)]
            rows.append(
                {"round": r, "client": name, "block": f"b{layer}", "layer": layer, "entropy": 1.0, "drift": 0.1 * r * layer, "load": load}
                | {"gate.expert": 0.5 + 0.01 * r, "gate_sd.expert": 0.1, "share.expert": 0.25, "grafted": [own]}
            )  # fmt: skip
    return rows


def write(path: Path, name: str, rows: list[dict], parts: bool = False) -> None:
    """One file, or a file for each round."""
    if not rows:
        return
    if not parts:
        pq.write_table(pa.Table.from_pylist(rows), path / f"{name}.parquet")
        return
    (path / name).mkdir()
    for r in sorted({row["round"] for row in rows}):
        pq.write_table(pa.Table.from_pylist([row for row in rows if row["round"] == r]), path / name / f"{r:06d}.parquet")


def sweep(
    path: Path,
    over: dict,
    value: Callable[[dict], float],
    *,
    failed: Sequence[int] = (),
    begun: int | None = None,
    **more: object,
) -> Path:
    """A sweep's folder as its trials leave it: each finished one's loss on valid rows is value(point). begun: so many trials so far."""
    spec = read({"rounds": 3, "clients": 2, "sweep": {"over": over, **more}})
    write_spec(spec, path)
    records = Records(path)
    for number, point in list(enumerate(spec.points))[:begun]:
        status, why = ("failed", "round 1, client b: it broke") if number in failed else ("finished", None)
        records.save(Record(number, point, {}, status=status, why=why))
        if status == "finished":
            records.run(number).mkdir(parents=True)
            means = {view: {"loss": value(point), "exact_match": 0.5} for view in ("base", "shared", "personal")}
            told = {"mean": means, "bytes": {"up": 10, "down": 20}, "tokens": 5, "seconds": {"rounds": 1.5}}
            (records.run(number) / "summary.json").write_text(json.dumps(told))
    return path
