"""The peers of `throughput.py` in processes of their own, which stay up and wait between their turns."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from benchmarks.plain import State, Work, mean


class Process:
    """A fresh process with so many threads and one model."""

    def __init__(self, works: Sequence[Work], threads: int, experts: str):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, threads), daemon=True)
        self._process.start()
        there.close()
        self.ask(list(works), experts)

    def send(self, *message: Any) -> None:
        self._here.send(message)

    def receive(self) -> Any:
        return self._here.recv()

    def ask(self, *message: Any) -> Any:
        self.send(*message)
        return self.receive()

    def close(self) -> None:
        self._here.close()
        self._process.join()


def _serve(pipe: Connection, threads: int) -> None:
    """Builds the model once, then trains as often as asked: (kind, rounds) to (seconds, result), until the pipe closes."""
    import torch
    from transformers.utils import logging

    from benchmarks import plain, sequential

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    works, experts = pipe.recv()
    if experts == "flexray":
        from flexray.models.experts import register

        register()
    model = plain.Model(works[0], experts)
    pipe.send(None)
    while True:
        try:
            kind, rounds = pipe.recv()
        except EOFError:
            return
        model.load(works[0].start)
        started = perf_counter()
        if kind == "independent":
            plain.train(model, works[0], rounds)
            result: Any = model.dump()
        else:
            result = sequential.federate(model, works, rounds)
        pipe.send((perf_counter() - started, result))


Result = tuple[float, State, list[State]]
"""Seconds, the shared state as a server would have it, and every client's own."""


class Independent:
    """One single-thread process per client; a run takes as long as the slowest."""

    def __init__(self, works: Sequence[Work], experts: str):
        self._works = works
        self._processes = [Process([work], 1, experts) for work in works]

    def run(self, rounds: int) -> Result:
        """Trains so many rounds' steps. The mean is taken after the clock has stopped: nobody shares anything here."""
        for process in self._processes:
            process.send("independent", rounds)
        given = [process.receive() for process in self._processes]
        states = [state for _, state in given]
        names = [name for name in states[0] if name.startswith("lora/")]
        shared = {name: mean([(s[name], w.weight) for s, w in zip(states, self._works, strict=True)]) for name in names}
        return max(seconds for seconds, _ in given), shared, states

    def close(self) -> None:
        for process in self._processes:
            process.close()


class Sequential:
    """One process for everything."""

    def __init__(self, works: Sequence[Work], threads: int, experts: str):
        self._process = Process(works, threads, experts)

    def run(self, rounds: int) -> Result:
        """Plays so many federated rounds."""
        seconds, (shared, own) = self._process.ask("sequential", rounds)
        return seconds, shared, own

    def close(self) -> None:
        self._process.close()
