"""Files of a run folder, read again: what is not there as it was written is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.local_files import contents
from flexray.raw import read_yaml

LARGEST = 1 << 30
"""Bytes of a JSON file: a million clients."""
ENDS = (".json", ".parquet", ".safetensors", ".yaml")
PUT_BACK = "put the file back as it was, or start the run anew"
MENDS = {
    "summary.json": "delete it, and have it written again by `flexray simulate --resume {}`",
    "tracking.json": "delete it: then all is told anew",
}
"""Files that can be made again, and how."""
COLUMNS = {
    "rounds": ("round",),
    "clients": ("round", "client", "view", "metric", "value"),
    "evaluations": ("round",),
    "rows": ("client", "view", "row"),
    "bytes": ("round", "client", "direction", "role", "bytes"),
    "inside": ("round", "client", "block"),
}
"""What every table has at the least."""


def check_whole(run: Path) -> None:
    """Raises ConfigError where a run has played rounds, and a file that they were committed with is gone, or is none."""
    for file in (f for pattern in ("*.*", "*/*.parquet") for f in run.glob(pattern)):
        if not file.is_file() and file.suffix in ENDS:
            raise _wrong(file, "something else than a file")
    played = (run / "rounds.parquet").exists() or len(list((run / "rounds").glob("*.parquet"))) > 1
    server, dealt = run / "server.safetensors", run / "clients.json"
    for file, wanted in ((server, played), (dealt, played or server.exists())):
        if wanted and not file.exists():
            raise _wrong(file, "none")


def check_finished(run: Path) -> None:
    """Raises ConfigError where a finished run lacks one of its tables."""
    for name in ("rounds", "clients", "evaluations"):
        if not _files(run, name):
            raise _wrong(run / f"{name}.parquet", "none")


def check_scored(run: Path) -> None:
    """Raises ConfigError where scores are gone that an evaluation tells of. Scores are written first: a run that goes on has them."""
    times = _rounds(run, "evaluations")
    if lost := times - _rounds(run, "clients"):
        raise _wrong(run / "clients" / f"{min(lost):06d}.parquet", "none")


def check_rounds(run: Path, last: int) -> None:
    """Raises ConfigError where tables lack rounds up to `last`, or an evaluation that others tell of."""
    rounds = [row for file in _files(run, "rounds") for row in read_table(file).to_pylist() if row["round"] <= last]
    if missing := {*range(last + 1)} - {row["round"] for row in rounds}:
        raise _wrong(run / "rounds" / f"{min(missing):06d}.parquet", "none")
    for row in rounds:
        file = run / "bytes" / f"{row['round'] + 1:06d}.parquet"
        if row["bytes_up"] + row["bytes_down"] > 0 and not file.exists():
            raise _wrong(file, "none")
    scores, times = (_rounds(run, name, last) for name in ("clients", "evaluations"))
    for name, lost in (("clients", times - scores), ("evaluations", scores - times)):
        if lost:
            raise _wrong(run / name / f"{min(lost):06d}.parquet", "none")


def _files(run: Path, name: str) -> list[Path]:
    """A table's pieces, and the whole of before."""
    return [file for file in (run / f"{name}.parquet", *sorted((run / name).glob("*.parquet"))) if file.exists()]


def _rounds(run: Path, name: str, last: float = inf) -> set[int]:
    return {r for file in _files(run, name) for r in read_table(file)["round"].unique().to_pylist() if r <= last}


def config(run: Path) -> dict[str, Any]:
    """What config.yaml says, unchecked, but for what names a run."""
    values = read_yaml(file := run / "config.yaml")
    algorithm = values.get("algorithm")
    if not isinstance(algorithm, dict) or not isinstance(algorithm.get("name"), str) or "seed" not in values:
        raise _wrong(file, "no config of a run")
    return values


def check_is_run(run: Path) -> None:
    """Raises ConfigError where a folder has one of the two files that every run has, and lacks the other."""
    named, dealt = run / "config.yaml", run / "clients.json"
    if named.exists() != dealt.exists():
        raise _wrong(dealt if named.exists() else named, "none")


def experiment(run: Path) -> Experiment:
    """What a run is of. Raises ConfigError that names its config.yaml."""
    file = run / "config.yaml"
    values = read_yaml(file)
    if not values:
        raise _wrong(file, "an empty file")
    try:
        return Experiment(**values)
    except ConfigError as e:
        raise ConfigError(*(f"{problem} (in {file})" for problem in e.problems)) from None


def read_json(file: Path, needs: Sequence[str] = ()) -> Any:
    """A file of one JSON object that has these keys, or of a list of such objects."""
    try:
        found = json.loads(contents(file, LARGEST).decode("utf-8"))
    except OSError as e:
        raise _wrong(file, e.strerror or str(e)) from None
    except (ValueError, RecursionError) as e:
        raise _wrong(file, f"no JSON: {e}") from None
    for one in found if isinstance(found, list) else [found]:
        missing = [key for key in needs if isinstance(one, dict) and key not in one]
        if missing or not isinstance(one, dict):
            raise _wrong(
                file, f"something without {missing[0]!r}" if isinstance(one, dict) else f"a {type(one).__name__} in it"
            )
    return found


def clients(run: Path) -> list[dict[str, Any]]:
    """Who took part, and with which rows."""
    found = read_json(run / "clients.json", ("client", "rows_sha256"))
    if not isinstance(found, list):
        raise _wrong(run / "clients.json", "no list")
    return found


def summary(run: Path) -> dict[str, Any]:
    """What a finished run came to."""
    found = read_json(run / "summary.json")
    if not isinstance(found, dict) or not found:
        raise _wrong(run / "summary.json", "nothing of that")
    return found


def read_table(file: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of a table of a run, its pages checked."""
    try:
        found = pq.read_table(file, columns=columns, page_checksum_verification=True)
    except (pa.ArrowException, ValueError, OSError, MemoryError) as e:
        raise _wrong(file, (str(e).strip() or type(e).__name__).splitlines()[0]) from None
    name = file.stem if file.stem in COLUMNS else file.parent.name
    missing = [c for c in columns or COLUMNS.get(name, ()) if c not in found.column_names]
    if missing:
        raise _wrong(file, f"a table without {missing[0]!r}")
    return found


def write_table(rows: pa.Table, file: Path) -> None:
    """With a checksum for each page."""
    pq.write_table(rows, file, write_page_checksum=True)


def _wrong(file: Path, got: str) -> ConfigError:
    mend = MENDS.get(file.name, PUT_BACK).format(file.parent)
    return ConfigError(f"run: expected {str(file)!r} as it was written, got {got}; {mend}")
