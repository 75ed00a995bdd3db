"""Measuring in processes like the actors': children of this one, which have everything loaded, or on a GPU a fresh one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from time import monotonic

import torch

from flexray.sim.planning.measure import Ask, Place, Scoring, Turn, answer

PATIENCE = 120.0
"""Seconds that a process may seem to do nothing."""
Found = list[Turn | Scoring | Place | str]
"""What one process found, one thing after another; at last, if it failed, why."""
Runner = Callable[[Ask, int], list[Found]]
"""Answers an `Ask` in so many processes at once."""


def here(ask: Ask, processes: int) -> list[Found]:
    """On this machine. A GPU is used by one fresh process: this one must not take memory of it."""
    return [_fresh(ask)] if torch.device(ask.job.layout.device).type == "cuda" else _forked(ask, processes)


def _forked(ask: Ask, processes: int) -> list[Found]:
    """By children, which have all libraries loaded already."""
    found: list[Found] = []

    def begin() -> None:
        try:
            found.extend(_children(ask, processes))
        except OSError as e:  # no room for another process
            found.append([f"{type(e).__name__}: {e}"])

    # From a thread of its own: OpenMP's threads belong to the thread for which they were made, and a child that
    # believed to have them too would wait for them forever.
    thread = Thread(target=begin, daemon=True)
    thread.start()
    thread.join()
    return found


def _children(ask: Ask, processes: int) -> list[Found]:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    children = [context.Process(target=_child, args=(ask, theirs), daemon=True) for _, theirs in pipes]
    try:
        with _quietly():
            for child in children:
                child.start()
        for _, theirs in pipes:
            theirs.close()
        return [_received(ours, child.pid or 0) for child, (ours, _) in zip(children, pipes, strict=True)]
    finally:
        for child in children:
            if child.pid:
                child.kill()
                child.join()


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside, nothing warns of forking: that there are threads, or that a tokenizer had some. The children use none of them."""
    name = "TOKENIZERS_PARALLELISM"
    given = name in os.environ
    os.environ.setdefault(name, "true")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if not given:
            del os.environ[name]


def _child(ask: Ask, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    for found in answered(ask):
        pipe.send(found)
    pipe.close()
    os._exit(0)  # what the parent has to do at its end is not to be done here


def _received(pipe: Connection, pid: int) -> Found:
    found: Found = []
    worked, since = 0, monotonic()
    with suppress(EOFError, OSError):
        while monotonic() - since < PATIENCE:
            if pipe.poll(min(PATIENCE, 1.0)):
                found.append(pipe.recv())
            if (now := _worked(pid)) > worked:
                worked, since = now, monotonic()
    return found or ["a measuring process was killed or did not answer"]


def _worked(pid: int) -> int:
    """Ticks of processors that a process has had."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def _fresh(ask: Ask) -> Found:
    """By a process of its own."""
    code = "from flexray.sim.planning import apart; apart.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(ask), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    found, told = [], BytesIO(done.stdout)
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            found.append(pickle.load(told))
    return found or [f"the measuring process ended with code {done.returncode}"]


def main() -> None:
    """The other side of `_fresh`: the ask comes in by the standard input, findings go out as they are made."""
    ask, out = pickle.load(sys.stdin.buffer), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for found in answered(ask):
        out.write(pickle.dumps(found))
        out.flush()


def answered(ask: Ask) -> Iterator[Turn | Scoring | Place | str]:
    """What can be found in this very process; at last, if something fails, why."""
    with suppress(OSError):  # where memory runs out, it is this process that ends
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        yield from answer(ask)
    except Exception as e:
        yield f"{type(e).__name__}: {e}"
