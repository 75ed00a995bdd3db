"""A client's rows, and the order in which they come: a pure function of (seed, client, round)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexray.data.seeds import Purpose, generator


@dataclass(frozen=True)
class Client:
    """One client's rows: numbers in the corpus, ascending, none in two of its splits.

    Other clients may have the same rows in the same split (overlap, a central test), and `train` and `valid` may have a
    row several times (drawn with replacement); a row that anybody trains on is held out by nobody. `dropped`: rows that
    were dealt to it and had no response to learn from. `labels`: train rows per label, sorted by label; empty where the
    config names no label column.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    dropped: int
    labels: dict[str, int]

    def digest(self) -> str:
        """What tells whether a client has the same rows as before."""
        rows = (np.asarray(own, "<i8") for own in (self.train, self.valid, self.test))
        return hashlib.sha256(b"|".join(own.tobytes() for own in rows)).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """A corpus file and its clients in a fixed order. `notes`: lines for the user about what was cut or left out."""

    corpus: Path
    clients: tuple[Client, ...]
    notes: tuple[str, ...]


def order(rows: np.ndarray, seed: int, client: int, round: int, count: int, stream: int = 0) -> np.ndarray:
    """`count` row numbers for one client's round: shuffled epochs, one after another. `client` is its number in the run.

    Epochs know nothing of batches: in one where an epoch ends, or that is larger than the client's rows, a row may come
    twice, and counts twice.
    """
    assert len(rows) > 0
    rng = generator(seed, Purpose.ORDER, client, round, stream)
    epochs = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate([rows[:0], *epochs])[:count]
