"""A tokenised Arrow table, memory-mapped: the pages are shared by all processes of a node, and no row is copied.

Reading goes through the columns' buffers, never through pyarrow's conversions to numpy, which would import pandas.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

COLUMN = "column."
"""Before the name of a source's column, which so cannot clash with the corpus's own."""
FINGERPRINT = b"fingerprint"


class Corpus:
    """All rows of a data set, by number. A row without tokens has no response to learn from.

    `fingerprint` tells corpora apart: it changes with the source's content and with all that makes tokens of it.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.fingerprint: str = reader.schema.metadata[FINGERPRINT].decode()
        self.columns: tuple[str, ...] = tuple(n.removeprefix(COLUMN) for n in reader.schema.names if n.startswith(COLUMN))
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        lists = [batch.column("tokens") for batch in self._batches]
        self._offsets = [_buffer(a, 1, batch.num_rows + 1) for a, batch in zip(lists, self._batches, strict=True)]
        self._tokens = [_buffer(a.values, 1, len(a.values)) for a in lists]
        self._responses = [_buffer(batch.column("response_start"), 1, batch.num_rows) for batch in self._batches]

    def __reduce__(self):
        return Corpus, (self.path,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: Iterable[int]) -> list[tuple[np.ndarray, int]]:
        """Each row's tokens (int32, a read-only view of the file) and where its response starts."""
        wanted = np.asarray(indices, dtype=np.int64)
        batches = np.searchsorted(self._starts, wanted, side="right") - 1
        found = []
        for batch, row in zip(batches.tolist(), (wanted - self._starts[batches]).tolist(), strict=True):
            start, end = self._offsets[batch][row : row + 2]
            found.append((self._tokens[batch][start:end], int(self._responses[batch][row])))
        return found

    @property
    def lengths(self) -> np.ndarray:
        """[N] tokens of each row."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets])

    @property
    def highest(self) -> int:
        """The highest number of a token; −1 where there is none."""
        return max((int(tokens.max()) for tokens in self._tokens if len(tokens)), default=-1)

    @property
    def cuts(self) -> np.ndarray:
        """[N] what each row had to lose to fit: numbers of `prompts.Cut`."""
        return np.concatenate([_buffer(batch.column("cut"), 1, batch.num_rows) for batch in self._batches])

    @property
    def splits(self) -> np.ndarray:
        """[N] train, valid or test."""
        return self._strings("split")

    @property
    def labels(self) -> np.ndarray:
        """[N] labels, all empty where the config names no label column."""
        return self._strings("label")

    def column(self, name: str) -> np.ndarray:
        """[N] a column of the source as strings, None where a row has none."""
        return self._strings(COLUMN + name)

    def _strings(self, field: str) -> np.ndarray:
        values = [value for batch in self._batches for value in batch.column(field).to_pylist()]
        found = np.empty(len(values), dtype=object)
        found[:] = values
        return found


def _buffer(array: pa.Array, number: int, count: int) -> np.ndarray:
    """An int32 buffer of an array as numpy, without a copy; IPC files hold arrays from their start."""
    assert array.offset == 0
    buffer = array.buffers()[number]
    return np.frombuffer(buffer, dtype=np.int32, count=count) if buffer is not None else np.zeros(0, np.int32)
