"""The run folder: what a run leaves behind, every file whole or absent.

config.yaml, versions.json, clients.json (written at the start); rounds.parquet, clients.parquet, server.safetensors (after
every round or evaluation); private/<client>/ (by the clients themselves); summary.json (at the end).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.torch import save_file

from flexray.sim.job import Job
from flexray.sim.round import RoundReport
from flexray.state import ServerState, State, Update

Table = list[dict[str, Any]]


class RunFolder:
    """Reads and writes one run folder."""

    def __init__(self, path: Path):
        self.path = path

    def table(self, name: str) -> Table:
        """The rows of `rounds`, `clients` or `evaluations`; none if there are none yet."""
        file = self.path / f"{name}.parquet"
        return pq.read_table(file).to_pylist() if file.exists() else []

    def save_round(self, job: Job, state: ServerState, report: RoundReport) -> None:
        """The round's row, then the server's state: with it the round is committed."""
        row = {
            "round": report.round,
            "loss": report.loss,
            "clients": len(report.clients),
            "tokens": report.tokens,
            "bytes_up": sum(c.bytes_up for c in report.clients),
            "bytes_down": sum(c.bytes_down for c in report.clients),
            "seconds": report.seconds,
            "seconds_training": report.seconds_training,
            "seconds_communication": report.seconds_communication,
            "seconds_waiting": report.seconds_waiting,
        }
        self._append("rounds", [row])
        tensors = _tagged(weights=state.sent.weights, aux=state.sent.aux, kept=state.kept)
        metadata = {"round": str(report.round)}
        self._whole("server.safetensors", lambda file: save_file(tensors, file, metadata))

    def load_server(self) -> tuple[ServerState, int] | None:
        """The server's state and the round it was committed in."""
        file = self.path / "server.safetensors"
        if not file.exists():
            return None
        with safe_open(file, "pt") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a mapping)
            round = int(f.metadata()["round"])
        return ServerState(Update(_under(tensors, "weights"), _under(tensors, "aux")), _under(tensors, "kept")), round

    def forget_after(self, round: int) -> None:
        """Drop rows of rounds that were never committed, and of evaluations that came after."""
        for name, last in (("rounds", round), ("clients", round + 1), ("evaluations", round + 1)):
            rows = [row for row in self.table(name) if row["round"] <= last]
            if (self.path / f"{name}.parquet").exists():
                self._write(name, rows)

    def scored(self, view: str) -> set[int]:
        """The clients whose scores in a view are here already."""
        return {row["client"] for row in self.table("clients") if row["view"] == view}

    def save_scores(self, rows: Table, round: int, seconds: float) -> dict[str, dict[str, float]]:
        """Adds the scores; gives the mean over clients per view and metric."""
        kept = [row for row in self.table("clients") if row["round"] != round]
        self._write("clients", kept + rows)
        self._append("evaluations", [{"round": round, "seconds": seconds}])
        views: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            views.setdefault(row["view"], {}).setdefault(row["metric"], []).append(row["value"])
        return {view: {name: fmean(values) for name, values in metrics.items()} for view, metrics in views.items()}

    def finish(self, summary: dict[str, Any]) -> None:
        """The last file: a run that has it is complete."""
        self.write_json("summary.json", summary)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        self._whole(name, lambda file: file.write_text(text, encoding="utf-8"))

    def _append(self, name: str, rows: Table) -> None:
        last = max(row["round"] for row in rows)
        self._write(name, [row for row in self.table(name) if row["round"] < last] + rows)

    def _write(self, name: str, rows: Table) -> None:
        self._whole(f"{name}.parquet", lambda file: pq.write_table(pa.Table.from_pylist(rows), file))

    def _whole(self, name: str, write: Callable[[Path], Any]) -> None:
        temporary = self.path / f".{name}.tmp"
        write(temporary)
        os.replace(temporary, self.path / name)


def _tagged(**states: State) -> State:
    return {f"{tag}|{name}": t.detach().cpu().contiguous() for tag, state in states.items() for name, t in state.items()}


def _under(tensors: State, tag: str) -> State:
    return {name.removeprefix(f"{tag}|"): t for name, t in tensors.items() if name.startswith(f"{tag}|")}
