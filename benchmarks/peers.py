"""The peers of `throughput.py` in processes of their own, which (but for Flower's) stay up and wait between their turns."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Protocol

import torch

from benchmarks.plain import State, Work, mean

ROOT = Path(__file__).parents[1]
Result = tuple[float, State, list[State]]
"""Seconds, the shared state as a server would have it, and every client's own."""


class Peer(Protocol):
    def run(self, rounds: int) -> Result:
        """Trains so many rounds of every client."""
        ...

    def close(self) -> None: ...


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
        started = perf_counter()
        if kind == "independent":
            result: Any = [_alone(model, work, rounds) for work in works]
        else:
            result = sequential.federate(model, works, rounds)
        pipe.send((perf_counter() - started, result))


def _alone(model: Any, work: Work, rounds: int) -> State:
    """One client from its start through so many rounds, with nobody else."""
    from benchmarks import plain

    model.load(work.start)
    plain.train(model, work, range(rounds))
    return model.dump()


class Independent:
    """Processes that share the clients out among themselves and train one after another; a run takes as long as the slowest."""

    def __init__(self, works: Sequence[Work], experts: str, processes: int, threads: int):
        self._works = works
        self._hands = dealt([work.tokens_in(len(work.rows)) for work in works], processes)
        self._processes = [Process([works[k] for k in hand], threads, experts) for hand in self._hands]

    def run(self, rounds: int) -> Result:
        """Trains so many rounds' steps. The mean is taken after the clock has stopped: nobody shares anything here."""
        for process in self._processes:
            process.send("independent", rounds)
        given = [process.receive() for process in self._processes]
        found = {k: s for hand, (_, states) in zip(self._hands, given, strict=True) for k, s in zip(hand, states, strict=True)}
        states = [found[k] for k in range(len(self._works))]
        names = [name for name in states[0] if name.startswith("lora/")]
        shared = {name: mean([(s[name], w.weight) for s, w in zip(states, self._works, strict=True)]) for name in names}
        return max(seconds for seconds, _ in given), shared, states

    def close(self) -> None:
        for process in self._processes:
            process.close()


def dealt(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Who does what, as evenly as can be: the largest first, each to the hand that has least."""
    found: list[list[int]] = [[] for _ in range(hands)]
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        min(found, key=lambda hand: sum(sizes[i] for i in hand)).append(k)
    return [sorted(hand) for hand in found if hand]


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


class Flower:
    """Flower's simulation (rivals/flower_train.py) in its own environment, started anew for every run.

    how: a client trains, `plain` or `trainer`.
    """

    def __init__(self, works: Sequence[Work], actors: int, python: Path, how: str):
        self._folder, self._python, self._options = TemporaryDirectory(), python, (str(actors), how)
        torch.save(list(works), self._path / "works.pt")

    @property
    def _path(self) -> Path:
        return Path(self._folder.name)

    def run(self, rounds: int) -> Result:
        """Plays so many federated rounds, after one in which nobody trains."""
        command = [str(self._python), "-m", "benchmarks.rivals.flower_train", str(self._path), str(rounds), *self._options]
        env = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode or not (self._path / "answer.pt").exists():
            sys.exit(f"Flower failed:\n{(done.stdout + done.stderr)[-3000:]}")
        told = torch.load(self._path / "answer.pt")
        (self._path / "answer.pt").unlink()
        return told["seconds"], told["shared"], told["own"]

    def close(self) -> None:
        self._folder.cleanup()
