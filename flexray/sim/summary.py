"""The end of a run in numbers: per client frozen base, shared only, personalised; bytes; where the time went."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from flexray.sim.job import Job
from flexray.sim.run_folder import RunFolder


def summarise(job: Job, folder: RunFolder, actors: int) -> dict[str, Any]:
    """What summary.json holds. Scores are each client's last ones, on its test rows."""
    rounds = folder.table("rounds")
    clients = _clients(folder)
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
        "clients": clients,
        "mean": {view: _mean([c[view] for c in clients]) for view in ("base", "shared", "personal")},
        "parameters": {
            "shared": job.wire.numbers,
            "private_per_client": job.private_numbers,
        },
        "bytes": {"up": sum(r["bytes_up"] for r in rounds), "down": sum(r["bytes_down"] for r in rounds)},
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / training,
        "actors": actors,
        "seats": job.layout.seats,
    }


def _clients(folder: RunFolder) -> list[dict[str, Any]]:
    """One entry per client: its name, and its last scores by view and metric."""
    clients: dict[int, dict[str, Any]] = {}
    for row in sorted(folder.table("clients"), key=lambda row: (row["client"], row["round"])):
        entry = clients.setdefault(row["client"], {"client": row["name"]})
        entry.setdefault(row["view"], {})[row["metric"]] = row["value"]
    return list(clients.values())


def _mean(scores: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(score[name] for score in scores) for name in scores[0]}
