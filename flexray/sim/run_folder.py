"""The run folder: what a run leaves behind, every file whole or absent.

config.yaml, versions.json, clients.json, system.json (at the start); server.safetensors (after every round); rounds, clients,
evaluations, rows, bytes, turns and inside (after every round or evaluation a file of its own in a folder of that name, so that a round
costs the same however many there have been; of all but the last three one file, <name>.parquet, at the end); private/<client>/ (by the
clients); summary.json (at the end). system.json and turns only where a clock is simulated.

rows has every row's counts in the last evaluation; a question of the probe has −1 − its number for a row.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flexray.data.clients import Client
from flexray.errors import RunError
from flexray.sim import run_files
from flexray.sim.columns import keyed, ledger, without
from flexray.sim.disk import rest

if TYPE_CHECKING:
    from flexray.sim.local.evaluator import Marks
    from flexray.sim.reports import Reports, Sight
    from flexray.sim.round import RoundReport
    from flexray.sim.server_file import Saved
    from flexray.sim.work import Server
    from flexray.state import State

Table = list[dict[str, Any]]
JOINED = ("rounds", "clients", "evaluations", "rows")
"""Tables that are one file at the end."""
WHOSE = ["client", "view"]
"""What tells scores apart that belong to one evaluation."""


class RunFolder:
    """Reads and writes one run folder. durable: what was written is on the disk once the call returns."""

    def __init__(self, path: Path, durable: bool = False):
        self.path, self.durable = path, durable
        self._scored: dict[str, set[int]] | None = None

    def table(self, name: str) -> Table:
        """The rows of `rounds`, `clients`, `evaluations`, `bytes`, `inside`, `turns` or `rows` (of the last evaluation), if any."""
        return [row for part in self._parts(name) for row in part.to_pylist()]

    def save_round(self, server: Server, report: RoundReport, rests: Mapping[int, int] | None = None, about: str = "") -> None:
        """The round's rows, then the server's state, with what else `server_file.write` takes: with it the round is committed."""
        from flexray.sim import server_file  # brings torch, which whoever only reads tables need not wait for
        from flexray.sim.system import ledger

        self._write_part("rounds", report.round, pa.Table.from_pylist([report.row]))
        self._save_bytes(report.round, report.crossed)
        if report.course is not None:
            self._write_part("turns", report.round + 1, pa.table(ledger.columns(report.course)))
        self._whole("server.safetensors", lambda file: server_file.write(file, server, report.round, rests, about))

    def save_survey(self, told: Mapping[int, State]) -> None:
        """What clients told before the first round, in bytes: round −1 of the ledger."""
        costs = [sum(t.numel() * 4 for t in state.values()) for state in told.values()]
        self._write_part("bytes", 0, ledger(-1, list(told), costs, ["up"] * len(told), ["survey"] * len(told)))

    def save_inside(self, round: int, seen: Mapping[str, Sight]) -> None:
        """What happens inside each client's model: a row per block."""
        rows = [
            {"round": round, "client": name, "block": b.block, "layer": b.layer, "entropy": b.entropy, "drift": b.drift, "load": b.load}
            | {f"{what}.{part}": value for what in ("gate", "gate_sd", "share") for part, value in getattr(b, what).items()}
            | {"grafted": sight.grafted.get(b.block, [])}
            for name, sight in seen.items()
            for b in sight.blocks
        ]  # fmt: skip
        (self.path / "inside").mkdir(exist_ok=True)
        if rows:
            self._write_part("inside", round, pa.Table.from_pylist(rows))

    def load_server(self, about: str | None = None) -> Saved | None:
        """What the last round was committed with."""
        from flexray.sim import server_file

        return server_file.read(file, about) if (file := self.path / "server.safetensors").exists() else None

    def forget_after(self, round: int) -> None:
        """Drop rows of rounds that were never committed, and of evaluations that came after."""
        for name in ("rounds", "clients", "evaluations", "rows", "bytes", "inside", "turns"):
            last = round if name == "rounds" else round + 1
            for file in (self.path / name).glob("*.parquet"):
                if int(file.stem) > last:
                    file.unlink()
            whole = self.path / f"{name}.parquet"
            if name != "rows" and whole.exists():
                self._write(name, run_files.read_table(whole).filter(pc.field("round") <= last))
        for file in self._files("rows"):  # of an end that was not the last
            self._write(f"rows/{file.stem}", run_files.read_table(file).filter(pc.field("view") == "base"))
        self._scored = None

    def scored(self, view: str) -> set[int]:
        """The clients whose scores in a view are here already."""
        if self._scored is None:
            self._scored = defaultdict(set)
            for part in self._parts("clients"):
                pairs = part.select(["view", "client"]).group_by(["view", "client"]).aggregate([]).to_pylist()
                self._remember((row["view"], row["client"]) for row in pairs)
        return self._scored[view]

    def save_scores(self, rows: Table, round: int, seconds: float, how: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """Adds the scores; gives the mean over clients per view and metric. how: which rows were scored, and when."""
        self.scored("")
        self._replace("clients", round, pa.Table.from_pylist(rows))
        self._write_part("evaluations", round, pa.Table.from_pylist([{"round": round, "seconds": seconds, **how}]))
        self._remember((row["view"], row["client"]) for row in rows)
        views: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            views.setdefault(row["view"], {}).setdefault(row["metric"], []).append(row["value"])
        return {view: {name: fmean(values) for name, values in metrics.items()} for view, metrics in views.items()}

    def save_marks(self, scores: Mapping[int, Mapping[str, Marks]], clients: Sequence[Client], round: int, last: bool) -> None:
        """Row by row what was counted: of the frozen base as soon as it is scored, of the other views at the end."""
        new = [
            pa.table({"client": [c] * n, "name": [clients[c].name] * n, "view": [v] * n, "row": m.rows, **m.counts})
            for c, views in sorted(scores.items())
            for v, m in views.items()
            if (last or v == "base") and (n := len(m.rows)) >= 0
        ]
        if new:
            self._replace("rows", round, pa.concat_tables(new))

    def totals(self) -> dict[str, dict[str, float]]:
        """Per view the sum of every count over all rows of the clients that were scored at last."""
        rows = pa.concat_tables(self._parts("rows"), promote_options="permissive")
        rows = rows.filter(pc.field("client").isin(rows.filter(pc.field("view") == "personal")["client"].unique()))
        keys = [name for name in rows.column_names if name not in ("client", "name", "view", "row")]
        sums = rows.group_by("view", use_threads=False).aggregate([(key, "sum") for key in keys]).to_pylist()
        return {row["view"]: {key: row[f"{key}_sum"] for key in keys} for row in sums}

    def crossed(self) -> dict[tuple[str, str], int]:
        """Bytes in all, by direction and role."""
        found: dict[tuple[str, str], int] = defaultdict(int)
        for part in self._parts("bytes"):
            for row in part.group_by(["direction", "role"]).aggregate([("bytes", "sum")]).to_pylist():
                found[row["direction"], row["role"]] += row["bytes_sum"]
        return dict(found)

    def last_inside(self) -> Table:
        """The rows of `inside` of the last round that has any."""
        return [row for file in list(self._files("inside"))[-1:] for row in run_files.read_table(file).to_pylist()]

    def finish(self, summary: dict[str, Any]) -> None:
        """The last file: a run that has it is complete."""
        for name in JOINED:
            parts = list(self._parts(name))
            if parts:
                whole = pa.concat_tables(parts, promote_options="permissive")
                self._write(name, whole.sort_by("client") if name == "rows" else whole)
                shutil.rmtree(self.path / name, ignore_errors=True)
        self.write_json("summary.json", summary)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        self._whole(name, lambda file: file.write_text(text, encoding="utf-8"))

    def _save_bytes(self, round: int, reports: Reports) -> None:
        told = [
            [(way, role, n) for way, roles in zip(("up", "down"), cost, strict=True) for role, n in roles.items()]
            for cost in reports.costs
        ]
        flat, sizes = [entry for own in told for entry in own], np.array([len(own) for own in told], np.int64)
        each, starts = sizes[reports.cost], np.cumsum(sizes) - sizes
        at = np.repeat(starts[reports.cost] - np.cumsum(each) + each, each) + np.arange(each.sum())
        (self.path / "bytes").mkdir(exist_ok=True)
        if len(at):
            directions, roles, costs = (pa.array(column).take(pa.array(at)) for column in zip(*flat, strict=True))
            self._write_part("bytes", round + 1, ledger(round, np.repeat(reports.client, each), costs, directions, roles))

    def _parts(self, name: str) -> Iterator[pa.Table]:
        """The table's pieces, in the order of their rounds. A whole file is of before the run was resumed: what a part tells anew is
        left out of it."""
        whole, parts = self.path / f"{name}.parquet", list(self._files(name))
        if whole.exists():
            before = run_files.read_table(whole)
            if name == "rows":
                told = {key for part in parts for key in keyed(run_files.read_table(part, columns=WHOSE), WHOSE)}
                before = without(before, WHOSE, told)
            else:
                before = before.filter(~pc.field("round").isin([int(file.stem) for file in parts]))
            yield before
        yield from map(run_files.read_table, parts)

    def _files(self, name: str) -> Iterator[Path]:
        return iter(sorted((self.path / name).glob("*.parquet")))

    def _replace(self, name: str, round: int, new: pa.Table) -> None:
        """A part, in which rows of before stay unless they are told anew."""
        file, whole = self.path / name / f"{round:06d}.parquet", self.path / f"{name}.parquet"
        before = run_files.read_table(file) if file.exists() else None
        if before is None and name != "rows" and whole.exists():
            before = run_files.read_table(whole).filter(pc.field("round") == round)
        if before is not None:
            new = pa.concat_tables([without(before, WHOSE, set(keyed(new, WHOSE))), new], promote_options="permissive")
        self._write_part(name, round, new.sort_by("client"))

    def _write_part(self, name: str, number: int, rows: pa.Table) -> None:
        """One file for each number."""
        (self.path / name).mkdir(exist_ok=True)
        self._write(f"{name}/{number:06d}", rows)

    def _write(self, name: str, rows: pa.Table) -> None:
        self._whole(f"{name}.parquet", lambda file: run_files.write_table(rows, file))

    def _whole(self, name: str, write: Callable[[Path], Any]) -> None:
        temporary = (self.path / name).with_name(f".{Path(name).name}.tmp")
        try:
            write(temporary)
            if self.durable:
                rest(temporary)
            os.replace(temporary, self.path / name)
            if self.durable:
                rest(temporary.parent)
        except OSError as e:
            raise RunError(f"{self.path / name} could not be written: {os.strerror(e.errno) if e.errno else e}") from e

    def _remember(self, pairs: Iterator[tuple[str, int]]) -> None:
        assert self._scored is not None
        for view, client in pairs:
            self._scored[view].add(client)
