"""Run folders made by hand: comparing needs no model."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flexray.comparison.folder import run_of
from flexray.comparison.spec import Cell, Spec

ROUNDS = 2


def write_run(path: Path, cell: Cell, nll: list[list[float]], seconds: float = 10.0) -> None:
    """A finished run whose clients have rows of one token each, with these losses."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(cell.experiment.spec()))
    table = [
        {"client": c, "name": f"client-{c}", "view": view, "row": 100 * c + i, "nll": value + more, "tokens": 1.0,
         "exact": float(value < 1), "rows": 1.0}
        for c, values in enumerate(nll)
        for view, more in (("base", 5.0), ("personal", 0.0))
        for i, value in enumerate(values)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), path / "rows.parquet")
    rounds = [{"round": r, "clients": len(nll), "seconds": seconds / 2} for r in range(ROUNDS)]
    pq.write_table(pa.Table.from_pylist(rounds), path / "rounds.parquet")
    summary = {
        "mean": {"personal": {"loss": float(np.mean([np.mean(v) for v in nll]))}},
        "parameters": {"shared": 1000, "private_per_client": 20},
        "bytes": {"up": 4000 * ROUNDS * len(nll), "down": 8000 * ROUNDS * len(nll)},
        "seconds": {"rounds": seconds, "evaluation": 2.0},
    }
    (path / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def ran(tmp_path):
    """Writes the runs of a spec: `ran(spec, {"fedavg-s0": [[1, 2], [3]], …})` gives the comparison's folder."""

    def write(spec: Spec, losses: dict[str, list[list[float]]]) -> Path:
        for cell in spec.cells:
            if cell.name in losses:
                write_run(run_of(tmp_path / "out", cell), cell, losses[cell.name])
        return tmp_path / "out"

    return write
