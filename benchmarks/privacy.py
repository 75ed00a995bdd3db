"""What an attacker learns from a model about who it was trained on: membership inference with and without differential privacy.

Every client's rows are dealt by coin into train (members) and held-out rows; seeds deal otherwise. From the loss of a row in a view of the
model an attack says how sure it is that the row was trained on:

- loss: −loss (Yeom et al. 2018);
- calibrated: the frozen base's loss − loss, so that hard rows are not taken for strange ones (Watson et al. 2022);
- lira: how far the loss is below that of models which have not seen the row, in their standard deviations (offline LiRA, Carlini et al.
  2022): the other seeds' runs are these models. With fewer than two of them the row is left out.

`shared` is what the server has and everybody gets; `personal` what a client serves with, and never sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common import machine, table
from flexray import Experiment, simulate
from flexray.data import builtin
from flexray.serve.finished import Finished, open_run

VIEWS = ("shared", "personal")
ATTACKS = ("loss", "calibrated", "lira")
FPR = 0.01
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "clipped, no noise": {"dp": {"where": "central", "noise_multiplier": 0.0}},
    "central, z = 0.3": {"dp": {"where": "central", "noise_multiplier": 0.3}},
    "central, z = 1": {"dp": {"where": "central", "noise_multiplier": 1.0}},
    "local, z = 1": {"dp": {"where": "local", "noise_multiplier": 1.0}},
}


@dataclass(frozen=True)
class Losses:
    """Of a run, row by row: mean loss per token by view, and whether the row was trained on. rows: client and number in the corpus."""

    rows: list[tuple[int, int]]
    member: np.ndarray
    loss: dict[str, np.ndarray]


def write_rows(path: Path, clients: int, each: int) -> None:
    """Rows of so many clients, so many each, every fact in one wording only: then no held-out row is another's words."""
    rng, found, seen = np.random.default_rng(0), builtin.rows(0, clients)["train"], set()
    told: dict[str, int] = {}
    with path.open("w") as file:
        for i in rng.permutation(len(found)).tolist():
            row, key = found[i], (found[i]["client"], found[i]["output"])
            if told.get(row["client"], 0) < each and (row["kind"] == "skill" or key not in seen):
                seen.add(key)
                told[row["client"]] = told.get(row["client"], 0) + 1
                file.write(json.dumps(row) + "\n")


def experiment(
    data: Path, method: Mapping[str, Any], clients: int, rounds: int, rows: int, seed: int, privacy: Mapping[str, Any]
) -> Experiment:
    """Small clients; everybody takes part in every round."""
    dp = {**privacy["dp"], "clip": 0.5} if privacy else {}
    return Experiment(
        seed=seed,
        rounds=rounds,
        clients=clients,
        algorithm={"lora": {"rank": 2}, **method},
        data={
            "path": str(data), "partition": {"name": "column", "column": "client"}, "valid_fraction": 0.1, "test_fraction": 0.45,
            "max_train_rows": rows, "max_test_rows": rows, "max_valid_rows": 4,
        },
        train={"steps": 10, "batch": 8, "lr": 1e-2, "final_lr": 1e-3},
        evaluation={"every": None, "metrics": ["loss"], "inside_rows": 0},
        resources={"backend": "inline", "threads": 1},
        privacy={"dp": dp},
        tracking=(),
    )  # fmt: skip


def losses(run: Path) -> Losses:
    """What an attacker with the model may compute: the loss of every row, trained on or held out."""
    found = open_run(run)
    try:
        parts = [part for client in range(len(found.names)) for part in _of_client(found, client)]
    finally:
        found.close()
    views = ("base", *VIEWS)
    loss = {view: np.concatenate([own[view] for *_, own in parts]) for view in views}
    rows = [(client, int(row)) for client, numbers, _, _ in parts for row in numbers]
    return Losses(rows, np.concatenate([np.full(len(n), member) for _, n, member, _ in parts]), loss)


def _of_client(run: Finished, client: int) -> Iterator[tuple[int, np.ndarray, bool, dict[str, np.ndarray]]]:
    views, scorer = run.views(client), run.scorer
    for split, member in (("train", True), ("test", False)):
        scorer.x = scorer.x.model_copy(update={"split": split})
        (marks,) = scorer.score(run.seats, (client,), views)
        yield (
            client,
            marks["base"].rows,
            member,
            {view: own.counts["nll"] / np.maximum(own.counts["tokens"], 1) for view, own in marks.items()},
        )


def scores(target: Losses, others: Sequence[Losses], view: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By attack: how sure it is of each row, and which rows are members."""
    loss = target.loss[view]
    out: dict[tuple[int, int], list[float]] = {}
    for other in others:
        for row, member, value in zip(other.rows, other.member, other.loss[view], strict=True):
            if not member:
                out.setdefault(row, []).append(float(value))
    known = np.array([len(out.get(row, ())) >= 2 for row in target.rows])
    found = {"loss": (-loss, target.member), "calibrated": (target.loss["base"] - loss, target.member)}
    if known.any():
        unseen = [np.array(out[row]) for row, k in zip(target.rows, known, strict=True) if k]
        spread = (
            np.sqrt(fmean(float(u.var(ddof=1)) for u in unseen)) + 1e-12
        )  # one for all rows: few models tell little of each
        found["lira"] = ((np.array([u.mean() for u in unseen]) - loss[known]) / spread, target.member[known])
    return found


def auc(sure: np.ndarray, member: np.ndarray) -> float:
    """The chance that a member is taken for one rather than another row; ties count half."""
    from scipy.stats import rankdata

    n, rest = int(member.sum()), int((~member).sum())
    return float((rankdata(sure)[member].sum() - n * (n + 1) / 2) / (n * rest))


def tpr(sure: np.ndarray, member: np.ndarray, fpr: float = FPR) -> float:
    """The share of members that are found while at most `fpr` of the others are taken for members."""
    least = np.sort(sure[~member])[::-1][int(fpr * (~member).sum())]
    return float((sure[member] > least).mean())


def attack(runs: Sequence[Path]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By view and attack: AUC and TPR of each run, the others standing for models that may not have seen a row."""
    every = [losses(run) for run in runs]
    found: dict[str, dict[str, list[tuple[float, float]]]] = {view: {} for view in VIEWS}
    for i, target in enumerate(every):
        for view in VIEWS:
            for name, (sure, member) in scores(target, every[:i] + every[i + 1 :], view).items():
                found[view].setdefault(name, []).append((auc(sure, member), tpr(sure, member)))
    return found


def main(
    out: Annotated[Path, typer.Option(help="Where runs and rows are kept; finished ones are not run again.")],
    clients: int = 40,
    rounds: int = 6,
    rows: int = 16,
    seeds: int = 4,
    method: Annotated[str, typer.Option(help="flex, or another one; without private parts both views are one.")] = "flex",
    only: Annotated[list[str] | None, typer.Option(help="Settings; all by default.")] = None,
) -> None:
    """Train with every setting, attack, and print a table."""
    print(machine())
    out.mkdir(parents=True, exist_ok=True)
    write_rows(data := out / f"rows-{clients}-{rows}.jsonl", clients, ceil(rows / 0.45))
    head = ["privacy", "ε", "shared loss", "personal loss", *(f"{v}: {a} AUC / TPR" for v in VIEWS for a in ATTACKS)]
    lines = []
    for name in only or SETTINGS:
        folders = [out / f"{method}-{name.replace(' ', '')}-{seed}" for seed in range(seeds)]
        for seed, folder in enumerate(folders):
            if not (folder / "summary.json").exists():
                simulate(experiment(data, {"name": method}, clients, rounds, rows, seed, SETTINGS[name]), folder)
        lines.append(_line(name, folders))
        print(table(head, lines[-1:]), flush=True)
    print(table(head, lines))


def _line(name: str, runs: Sequence[Path]) -> list[str]:
    told = [json.loads((run / "summary.json").read_text()) for run in runs]
    spent = told[0].get("privacy", {}).get("dp", {}).get("epsilon")
    found = attack(runs)
    cells = [
        f"{_spread([a for a, _ in found[v][k]])} / {_spread([t for _, t in found[v][k]], 100)} %" if k in found[v] else ""
        for v in VIEWS
        for k in ATTACKS
    ]
    means = [_spread([t["mean"][view]["loss"] for t in told]) for view in VIEWS]
    return [name, "∞" if spent is None else f"{spent:.1f}", *means, *cells]


def _spread(values: Sequence[float], scale: float = 1) -> str:
    digits = 1 if scale == 100 else 3
    sd = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * fmean(values):.{digits}f}{sd}"


if __name__ == "__main__":
    typer.run(main)
