"""The run folder: what a run leaves behind, every file whole or absent.

config.yaml, versions.json, clients.json (written at the start); rounds.parquet, clients.parquet, evaluations.parquet,
server.safetensors, bytes/ and inside/ (after every round or evaluation); rows.parquet (every row's counts in the last
evaluation; a question of the probe has −1 − its number for a row); private/<client>/ (by the clients themselves);
summary.json (at the end).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.torch import save_file

from flexray.sim.round import RoundReport, Server
from flexray.state import ServerState, State, Update

if TYPE_CHECKING:
    from flexray.sim.evaluator import Marks
    from flexray.sim.reports import Sight

Table = list[dict[str, Any]]


class RunFolder:
    """Reads and writes one run folder."""

    def __init__(self, path: Path):
        self.path = path

    def table(self, name: str) -> Table:
        """The rows of `rounds`, `clients`, `evaluations`, `bytes`, `inside`, or `rows` (of the last evaluation); none if there
        are none yet."""
        files = sorted((self.path / name).glob("*.parquet")) or [self.path / f"{name}.parquet"]
        return [row for file in files if file.exists() for row in pq.read_table(file).to_pylist()]

    def save_round(self, server: Server, report: RoundReport) -> None:
        """The round's rows, then the server's state: with it the round is committed."""
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
        self._save_bytes(report.round, {c.client: {"up": c.up, "down": c.down} for c in report.clients})
        parted = [
            _tagged(**{f"weights{i}": s.sent.weights, f"aux{i}": s.sent.aux, f"kept{i}": s.kept}) for i, s in server.numbered()
        ]
        tensors = {name: t for state in parted for name, t in state.items()}
        # One key: the order of several is another one in every process, and so would be the file's bytes.
        told = {"round": report.round, "clusters": server.clusters, "states": len(server.states)}
        metadata = {"server": json.dumps(told)}
        self._whole("server.safetensors", lambda file: save_file(tensors, file, metadata))

    def save_survey(self, told: Mapping[int, State]) -> None:
        """What clients told before the first round, in bytes: round −1 of the ledger."""
        costs = {client: {"up": {"survey": sum(t.numel() * 4 for t in state.values())}} for client, state in told.items()}
        self._save_bytes(-1, costs)

    def save_inside(self, round: int, seen: Mapping[str, Sight]) -> None:
        """What happens inside each client's model: a row per block."""
        rows = [
            {"round": round, "client": name, "block": b.block, "layer": b.layer, "entropy": b.entropy, "drift": b.drift, "load": b.load}
            | {f"{what}.{part}": value for what in ("gate", "gate_sd", "share") for part, value in getattr(b, what).items()}
            | {"grafted": sight.grafted.get(b.block, [])}
            for name, sight in seen.items()
            for b in sight.blocks
        ]  # fmt: skip
        self._part("inside", round, rows)

    def load_server(self) -> tuple[Server, int] | None:
        """The server and the round it was committed in."""
        file = self.path / "server.safetensors"
        if not file.exists():
            return None
        with safe_open(file, "pt") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a mapping)
            told = json.loads(f.metadata()["server"])
        states = [
            ServerState(Update(_under(tensors, f"weights{i}"), _under(tensors, f"aux{i}")), _under(tensors, f"kept{i}"))
            for i in range(told["states"])
        ]
        return Server(tuple(states), tuple(told["clusters"])), told["round"]

    def forget_after(self, round: int) -> None:
        """Drop rows of rounds that were never committed, and of evaluations that came after."""
        for name, last in (("rounds", round), ("clients", round + 1), ("evaluations", round + 1)):
            rows = [row for row in self.table(name) if row["round"] <= last]
            if (self.path / f"{name}.parquet").exists():
                self._write(name, rows)
        for file in (file for name in ("bytes", "inside") for file in (self.path / name).glob("*.parquet")):
            if int(file.stem) > round + 1:
                file.unlink()

    def scored(self, view: str) -> set[int]:
        """The clients whose scores in a view are here already."""
        return {row["client"] for row in self.table("clients") if row["view"] == view}

    def save_scores(self, rows: Table, round: int, seconds: float, how: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """Adds the scores; gives the mean over clients per view and metric. how: which rows were scored, and when."""
        again = {(row["client"], row["view"]) for row in rows}
        kept = [row for row in self.table("clients") if row["round"] != round or (row["client"], row["view"]) not in again]
        self._write("clients", kept + rows)
        self._append("evaluations", [{"round": round, "seconds": seconds, **how}])
        views: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            views.setdefault(row["view"], {}).setdefault(row["metric"], []).append(row["value"])
        return {view: {name: fmean(values) for name, values in metrics.items()} for view, metrics in views.items()}

    def save_marks(self, scores: Mapping[int, Mapping[str, Marks]], names: Sequence[str], last: bool) -> None:
        """Row by row what was counted: of the frozen base as soon as it is scored, of the other views at the end."""
        new = [
            pa.table({"client": [c] * len(m.rows), "name": [names[c]] * len(m.rows), "view": [v] * len(m.rows), "row": m.rows, **m.counts})
            for c, views in sorted(scores.items())
            for v, m in views.items()
            if last or v == "base"
        ]  # fmt: skip
        if not new:
            return
        if (file := self.path / "rows.parquet").exists():
            again = [client for client, views in scores.items() if "base" in views]
            new.insert(0, pq.read_table(file).filter((pc.field("view") == "base") & ~pc.field("client").isin(again)))
        table = pa.concat_tables(new)
        self._whole("rows.parquet", lambda file: pq.write_table(table, file))

    def totals(self) -> dict[str, dict[str, float]]:
        """Per view the sum of every count over all clients' rows."""
        rows = pq.read_table(self.path / "rows.parquet")
        keys = [name for name in rows.column_names if name not in ("client", "name", "view", "row")]
        sums = rows.group_by("view", use_threads=False).aggregate([(key, "sum") for key in keys]).to_pylist()
        return {row["view"]: {key: row[f"{key}_sum"] for key in keys} for row in sums}

    def _save_bytes(self, round: int, costs: Mapping[int, Mapping[str, Mapping[str, int]]]) -> None:
        rows = [
            {"round": round, "client": client, "direction": direction, "role": role, "bytes": n}
            for client, ways in costs.items()
            for direction, roles in ways.items()
            for role, n in roles.items()
        ]
        self._part("bytes", round + 1, rows)

    def _part(self, name: str, number: int, rows: Table) -> None:
        """One file for each number, so that a round costs the same however many there have been."""
        (self.path / name).mkdir(exist_ok=True)
        if rows:
            self._write(f"{name}/{number:06d}", rows)

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
        temporary = (self.path / name).with_name(f".{Path(name).name}.tmp")
        write(temporary)
        os.replace(temporary, self.path / name)


def _tagged(**states: State) -> State:
    return {f"{tag}|{name}": t.detach().cpu().contiguous() for tag, state in states.items() for name, t in state.items()}


def _under(tensors: State, tag: str) -> State:
    return {name.removeprefix(f"{tag}|"): t for name, t in tensors.items() if name.startswith(f"{tag}|")}
