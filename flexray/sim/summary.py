"""The end of a run in numbers: per client frozen base, shared only, personalised; bytes; where the time went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from math import ceil, isfinite, nan
from statistics import fmean, stdev
from typing import Any

from flexray.metric import Number
from flexray.sim import left_out
from flexray.sim.job import Job
from flexray.sim.privacy import costs, opening
from flexray.sim.run_folder import RunFolder
from flexray.sim.system import ledger

VIEWS = ("base", "shared", "personal")
Fold = Callable[[Sequence[float], Number], float]
"""From a number of every client to one."""


def summarise(job: Job, folder: RunFolder, actors: int) -> dict[str, Any]:
    """What summary.json holds. Scores are each client's last ones, on rows of evaluation.split."""
    rounds = folder.table("rounds")
    training = sum(r["seconds"] for r in rounds)
    seconds = {
        "rounds": training,
        "training": sum(r["seconds_training"] for r in rounds),
        "communication": sum(r["seconds_communication"] for r in rounds),
        "waiting": sum(r["seconds_waiting"] for r in rounds),
        "evaluation": sum(e["seconds"] for e in folder.table("evaluations")),
    }
    tokens = sum(r["tokens"] for r in rounds)
    return {
        "algorithm": job.experiment.algorithm.name,
        "seed": job.experiment.seed,
        "rounds": len(rounds),
        "evaluation": _evaluation(job),
        **_scores(job, folder),
        "parameters": {
            "shared": job.numbers("shared"),
            "private_per_client": job.numbers("private"),
        },
        "bytes": _bytes(job, folder),
        **ledger.summary(rounds),
        "flops_per_token": {"frozen": job.costs.flops, "added": job.costs.flops_added},
        "inside": _inside(folder),
        "left_out": left_out.load(folder),
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / training,
        "actors": actors,
        "seats": job.layout.seats,
        **({"privacy": told} if (told := opening.summary(job, len(rounds))) else {}),
    }


def _scores(job: Job, folder: RunFolder) -> dict[str, Any]:
    """Every client's numbers by view, and over clients: mean; weighted_mean (of all clients' rows together: a client
    weighs by its tokens, rows or questions, whatever the number is a share of); sd (of a sample; 0 for one client);
    worst_tenth; jain.
    """
    clients = _clients(folder)
    numbers = numbers_of(job, clients[0]["personal"])

    def over(fold: Fold) -> dict[str, dict[str, float]]:
        return {
            view: {name: fold([c[view][name] for c in clients], number) for name, number in numbers.items()} for view in VIEWS
        }

    return {
        "metrics": {name: asdict(number) for name, number in numbers.items()},
        "clients": clients,
        "mean": over(lambda values, _: fmean(values)),
        "weighted_mean": {view: _values(job, sums) for view, sums in sorted(folder.totals().items())},
        "sd": over(lambda values, _: _sd(values)),
        "worst_tenth": over(worst_tenth),
        "jain": over(lambda values, _: jain(values)),
    }


def _sd(values: Sequence[float]) -> float:
    """Of a sample; of a single value 0, and no number where a model has diverged."""
    if not all(map(isfinite, values)):
        return nan
    return stdev(values) if len(values) > 1 else 0.0


def _bytes(job: Job, folder: RunFolder) -> dict[str, Any]:
    """What crossed in all, what was told before the first round included; by role; and one update beside what else could be sent."""
    crossed = folder.crossed()
    by_role = {way: {role: n for (w, role), n in sorted(crossed.items()) if w == way} for way in ("up", "down")}
    ways: dict[str, Any] = {way: sum(roles.values()) for way, roles in by_role.items()}
    return {**ways, "by_role": by_role, "one_update": {**costs.one_update(job), **job.costs.instead}}


def _inside(folder: RunFolder) -> dict[str, float]:
    """Means over clients and blocks at the last evaluation: routing's entropy and drift, gates, shares of the grafted experts."""
    last = folder.last_inside()
    names = [n for n in (last[0] if last else {}) if n in ("entropy", "drift") or n.startswith(("gate.", "share."))]
    return {name: fmean(r[name] for r in last) for name in names}


def _clients(folder: RunFolder) -> list[dict[str, Any]]:
    """One entry per client of the last evaluation: its name, and its last scores by view and metric."""
    rows = sorted(folder.table("clients"), key=lambda row: (row["client"], row["round"]))
    scored = {row["client"] for row in rows if row["round"] == max(row["round"] for row in folder.table("evaluations"))}
    clients: dict[int, dict[str, Any]] = {}
    for row in (row for row in rows if row["client"] in scored):
        entry = clients.setdefault(row["client"], {"client": row["name"]})
        entry.setdefault(row["view"], {})[row["metric"]] = row["value"]
    return list(clients.values())


def worst_tenth(values: Sequence[float], number: Number) -> float:
    """The mean of the worst tenth of them: of at least one, a share of one counts as one."""
    return fmean(sorted(values, reverse=number.less)[: ceil(len(values) / 10)])


def jain(values: Sequence[float]) -> float:
    """(Σx)²/(n·Σx²), of Jain et al. 1984: 1 where all are the same, 1/n where one has everything."""
    squares = sum(v * v for v in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def numbers_of(job: Job, names: Iterable[str]) -> dict[str, Number]:
    """How each number reads."""
    whose = {name: metric for metric in job.metrics for name in metric.numbers}
    return {name: whose[name].number(name) if name in whose else Number(name.replace("_", " ")) for name in names}


def _values(job: Job, sums: dict[str, float]) -> dict[str, float]:
    return {name: value for metric in job.metrics for name, value in metric.value(sums).items()}


def _evaluation(job: Job) -> dict[str, Any]:
    """What was scored, and when."""
    x = job.experiment.evaluation
    told = {"split": x.split, "when": x.when}
    if any(m.needs_generation for m in job.metrics):
        told |= {"max_new_tokens": x.max_new_tokens, "generate_rows": x.generate_rows}
    if any(m.needs_probe for m in job.metrics):
        told |= {"probe": str(x.probe), "probe_rows": x.probe_rows}
    return told
