"""The no-op of `overhead.py` as a loop over clients in numpy: one process, one buffer, everything in place."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from benchmarks.rivals.task import Task, answer, asked


def play(task: Task, sent: np.ndarray, buffer: np.ndarray, own: dict[int, np.ndarray]) -> np.ndarray:
    """One round: the weighted mean [P]. A client works on a copy of what was sent, for training writes to it."""
    total = np.zeros_like(sent)
    for client, share in enumerate(task.shares):
        np.copyto(buffer, sent)
        task.train(client, buffer)
        buffer *= share
        total += buffer
        if task.owned:
            own[client] = task.next_own(own.get(client))
    return total


def main() -> None:
    task, out = asked()
    sent, seconds, own = task.start(), [], {}
    buffer = np.empty_like(sent)
    for _ in range(task.rounds):
        started = perf_counter()
        sent = play(task, sent, buffer, own)
        seconds.append(perf_counter() - started)
    answer(task, out, seconds, sent, float(own[0][0]) if own else None)


if __name__ == "__main__":
    main()
