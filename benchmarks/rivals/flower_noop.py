"""The no-op of `overhead.py` in Flower's simulation: FedAvg over messages, one ClientApp call per client, Ray actors.

Settings in its favour: actors of 1 CPU, all clients trained, no evaluation, one array per model, which a client that
trains nothing sends back as the record it got, without decoding it. A round is timed from `configure_train` to the end of
`aggregate_train`. What a client owns is in `context.state`, which is where Flower keeps such things.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.rivals.task import Task, answer, asked, load

TASK = "OVERHEAD_TASK"
client_app = ClientApp()


@cache
def _task() -> Task:
    """Read once per process: actors are told by the environment, so that messages carry nothing but the model."""
    return load(os.environ[TASK])


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's round."""
    task, client = _task(), int(context.node_config["partition-id"])
    arrays: Any = message.content["arrays"]
    if task.step:
        (values,) = arrays.to_numpy_ndarrays()
        values = values.copy()
        task.train(client, values)
        arrays = ArrayRecord([values])
    if task.owned:
        _own(task, context)
    metrics = MetricRecord({"num-examples": task.rows[client]})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def _own(task: Task, context: Context) -> None:
    known: Any = context.state.get("own")
    if known is None or task.changes:
        mine = known.to_numpy_ndarrays()[0] if known is not None else None
        context.state["own"] = ArrayRecord([task.next_own(mine)])


class Timed(FedAvg):
    """FedAvg that takes the time of its rounds."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.seconds: list[float] = []

    def configure_train(self, *args: Any, **options: Any) -> Any:
        self._started = perf_counter()
        return super().configure_train(*args, **options)

    def aggregate_train(self, *args: Any, **options: Any) -> Any:
        result = super().aggregate_train(*args, **options)
        self.seconds.append(perf_counter() - self._started)
        return result


def simulate(server: Any, client: ClientApp, clients: int, actors: int) -> None:
    """Runs `server(grid)` as the ServerApp, and the clients on so many Ray actors of one CPU."""
    app = ServerApp()

    @app.main()
    def run(grid: Grid, context: Context) -> None:
        server(grid)

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(app, client, clients, backend_config={"init_args": {"num_cpus": actors}, "client_resources": resources})


def main() -> None:
    task, out = asked()
    os.environ[TASK] = sys.argv[-2]
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=len(task.rows), min_available_nodes=len(task.rows))
    final: list[np.ndarray] = []

    def server(grid: Grid) -> None:
        result = strategy.start(grid, ArrayRecord([task.start()]), num_rounds=task.rounds)
        final.extend(result.arrays.to_numpy_ndarrays())

    simulate(server, client_app, len(task.rows), task.actors)
    answer(task, out, strategy.seconds, final[0])


if __name__ == "__main__":
    from benchmarks.rivals import flower_noop  # under its own name, so that Ray sends the app as a reference to it

    flower_noop.main()
