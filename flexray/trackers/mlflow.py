"""MLflow, wherever MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar

from flexray.tracker import About, Tracker

MOST_PARAMETERS, LONGEST = 100, 500
"""Of one batch, and of a parameter's value."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""A run waits while its tracker is told; with MLflow's own retries it stands still for four minutes where a server is away."""


class MLflow(Tracker):
    """Its own environment variables say where to, such as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME (`flexray` if unset)."""

    needs: ClassVar[str] = "mlflow"

    def open(self, run: About) -> str:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        self.client = import_module("mlflow").MlflowClient()
        if run.known is not None:
            self.id = run.known
            self.client.update_run(self.id, status="RUNNING")
            return self.id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "flexray")
        there = self.client.get_experiment_by_name(name)
        experiment = there.experiment_id if there else self.client.create_experiment(name)
        self.id = self.client.create_run(experiment, run_name=run.folder.name).info.run_id
        self._describe(run.config)
        return self.id

    def _describe(self, config: Mapping[str, Any]) -> None:
        param = import_module("mlflow.entities").Param
        values = [param(key, value[:LONGEST]) for key, value in _flat(config)]
        for i in range(0, len(values), MOST_PARAMETERS):
            self.client.log_batch(self.id, params=values[i : i + MOST_PARAMETERS])

    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        metric, now = import_module("mlflow.entities").Metric, int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[metric(name, value, now, step) for name, value in numbers.items()])

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}".lstrip("."))
    else:
        yield path, str(value)
