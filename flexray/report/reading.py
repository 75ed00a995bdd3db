"""Run folders as plots read them: their tables and small files, finished or not, without a look at any tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from flexray.errors import expected
from flexray.metric import Number
from flexray.sim import run_files
from flexray.sim.run_folder import RunFolder, Table

KNOWN = {
    "loss": Number("loss", less=True),
    "perplexity": Number("perplexity", less=True, decimals=2, shown=False),
    "exact_match": Number("exact match %", scale=100, decimals=1),
}
"""How numbers read while summary.json, which says it, is not there yet."""
UNITS = {"loss": "nats per token"}
"""Of numbers whose title does not tell."""


@dataclass(frozen=True)
class Told:
    """One run. label: what it is called on the page, unlike any other there. place: its number among the runs.

    scores: of clients.parquet; inside: see models/inside.py; surveyed: bytes before the first round; summary: of a finished run only.
    """

    label: str
    place: int
    path: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    dealt: Table
    rounds: Table
    scores: Table
    evaluations: Table
    inside: Table
    surveyed: int
    summary: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @cached_property
    def numbers(self) -> dict[str, Number]:
        """How each number reads; those not shown in tables left out."""
        told = {name: Number(**how) for name, how in (self.summary or {}).get("metrics", {}).items()}
        names = dict.fromkeys(row["metric"] for row in self.scores)
        found = {name: told.get(name) or KNOWN.get(name) or Number(name.replace("_", " ")) for name in names}
        return {name: how for name, how in found.items() if how.shown}

    @cached_property
    def by_round(self) -> dict[tuple[str, str], dict[int, dict[str, float]]]:
        """Every client's scaled value by (view, metric) and round."""
        found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        for row in self.scores:
            if how := self.numbers.get(row["metric"]):
                values = found.setdefault((row["view"], row["metric"]), {}).setdefault(row["round"], {})
                values[row["name"]] = row["value"] * how.scale
        return found

    def over_rounds(self, view: str, metric: str) -> dict[int, dict[str, float]]:
        """Every client's value at each evaluation. The frozen base never changes, and is scored once a client."""
        return dict(sorted(self.by_round.get((view, metric), {}).items()))

    def last(self, view: str, metric: str) -> dict[str, float]:
        """Every client's value when it was scored last; of the clients of the last evaluation."""
        newest = max((row["round"] for row in self.evaluations), default=0)
        scored = {row["name"] for row in self.scores if row["round"] == newest and row["view"] != "base"}
        values: dict[str, float] = {}
        for found in self.over_rounds(view, metric).values():
            values |= found
        return {name: value for name, value in values.items() if name in scored}

    def crossed(self, rounds: int) -> int:
        """Bytes up and down, of all clients, in the first so many rounds."""
        return self.surveyed + sum(r["bytes_up"] + r["bytes_down"] for r in self.rounds if r["round"] < rounds)


def axis(metric: str, how: Number) -> str:
    """A number's name with its unit."""
    return how.title if "%" in how.title or metric not in UNITS else f"{how.title} ({UNITS[metric]})"


def read(paths: Sequence[Path]) -> list[Told]:
    """The runs of these folders; a folder that holds runs stands for them. Raises ConfigError where there is none."""
    found = list(dict.fromkeys(run for path in paths for run in _runs(path)))
    opened = [(path, run_files.config(path)) for path in found]
    return [
        _read(path, config, label, i) for i, ((path, config), label) in enumerate(zip(opened, _labels(opened), strict=True))
    ]


def _runs(path: Path) -> Iterator[Path]:
    if (path / "config.yaml").exists() and (path / "clients.json").exists():
        yield path
        return
    below = [p.parent for depth in ("*", "runs/*") for p in sorted(path.glob(f"{depth}/clients.json"))]
    if not below:
        run_files.check_is_run(path)
        raise expected("report", "run folders, or a folder of runs", str(path), "name what `flexray simulate` wrote")
    yield from below


def _read(path: Path, config: dict[str, Any], label: str, place: int) -> Told:
    files = RunFolder(path)
    tables = [files.table(name) for name in ("rounds", "clients", "evaluations", "inside")]
    survey = sum(n for (_, role), n in files.crossed().items() if role == "survey")
    if (path / "summary.json").exists():
        run_files.check_finished(path)
    run_files.check_scored(path)
    versions, dealt = run_files.read_json(path / "versions.json"), run_files.clients(path)
    ended = run_files.summary(path) if (path / "summary.json").exists() else None
    rounds, scores, evaluations, inside = tables
    return Told(label, place, path, config, versions, dealt, rounds, scores, evaluations, inside, survey, ended)


def method(config: Mapping[str, Any]) -> str:
    """Its name; of a file of the user's own the file's."""
    name = config["algorithm"]["name"]
    return Path(name).stem if name.endswith(".py") else name


def _labels(opened: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[str]:
    """The shortest names that tell the runs apart: the method's; with the seed; the folder's; the folder's path."""
    methods = [method(config) for _, config in opened]
    seeded = [f"{method} · seed {config['seed']}" for method, (_, config) in zip(methods, opened, strict=True)]
    for names in (methods, seeded, [path.resolve().name for path, _ in opened]):
        if max(Counter(names).values()) == 1:
            return names
    return [str(path) for path, _ in opened]


def capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def mean(values: Mapping[str, float]) -> float:
    return fmean(values.values())
