"""FLEx in Flower's simulation, for `throughput.py`: the client of plain.py in a ClientApp, FedAvg over the adapters.

    python -m benchmarks.rivals.flower_train FOLDER ROUNDS ACTORS plain|trainer    # FOLDER has works.pt, and gets answer.pt

`plain` is the best that we could make of it: the model is loaded once per actor, and training is a plain loop. `trainer`
is how apps for language models are usually written: every call loads the model and makes a transformers Trainer. In favour
of both: actors of one CPU and one thread, transformers' fastest forward of the experts (its default), no evaluation; what a client owns
is in `context.state`. A first round in which nobody trains is not counted: in it actors import, load the model, and
clients get what they start with.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from benchmarks import plain
from benchmarks.plain import State, Work
from benchmarks.rivals.flower_noop import Timed, simulate

EXPERTS = "grouped_mm"
FOLDER = "THROUGHPUT_FOLDER"
ROUNDS = "THROUGHPUT_ROUNDS"
HOW = "THROUGHPUT_HOW"
client_app = ClientApp()


@cache
def _works() -> list[Work]:
    return torch.load(Path(os.environ[FOLDER]) / "works.pt", weights_only=False)


def _load() -> plain.Model:
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    return plain.Model(_works()[0], EXPERTS)


_kept = cache(_load)
"""One per actor."""


def _train(model: plain.Model, work: Work, round: int) -> None:
    if os.environ[HOW] == "plain":
        plain.train(model, work, range(round, round + 1))
    else:
        from benchmarks.sequential import trainer

        with TemporaryDirectory() as folder:
            trainer(model, work, round, folder).train()


def _shared(state: State, yes: bool) -> State:
    return {name: t for name, t in state.items() if name.startswith("lora/") == yes}


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's round."""
    model, client = _kept() if os.environ[HOW] == "plain" else _load(), int(context.node_config["partition-id"])
    work, content = _works()[client], message.content
    arrays, config = cast(Any, content["arrays"]), cast(Any, content["config"])
    round = int(config["server-round"]) - 2  # Flower counts from 1, and the first one trains nobody
    if round < 0:
        context.state["own"] = ArrayRecord(_shared(work.start, False))
    else:
        own: Any = context.state["own"]
        model.load(arrays.to_torch_state_dict() | own.to_torch_state_dict())
        _train(model, work, round)
        trained = model.dump()
        arrays, context.state["own"] = ArrayRecord(_shared(trained, True)), ArrayRecord(_shared(trained, False))
        if round == int(os.environ[ROUNDS]) - 1:  # for the check
            torch.save(_shared(trained, False), Path(os.environ[FOLDER]) / f"own-{client}.pt")
    metrics = MetricRecord({"num-examples": work.weight})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def main() -> None:
    folder, rounds, actors = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ |= {FOLDER: str(folder), ROUNDS: str(rounds), HOW: sys.argv[4]}
    works = _works()
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=len(works), min_available_nodes=len(works))
    shared: State = {}

    def server(grid: Grid) -> None:
        result = strategy.start(grid, ArrayRecord(_shared(works[0].start, True)), num_rounds=rounds + 1)
        shared.update(result.arrays.to_torch_state_dict())

    simulate(server, client_app, len(works), actors)
    own = [torch.load(folder / f"own-{k}.pt") for k in range(len(works))]
    torch.save({"seconds": sum(strategy.seconds[1:]), "shared": shared, "own": own}, folder / "answer.pt")


if __name__ == "__main__":
    from benchmarks.rivals import flower_train  # under its own name, so that Ray sends the app as a reference to it

    flower_train.main()
