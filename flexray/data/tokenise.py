"""The corpus file: a source's rows tokenised once, kept under a name that tells all they depend on."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock

from flexray.data.corpus import COLUMN, FINGERPRINT
from flexray.data.options import Data
from flexray.data.prompts import Encoder, Tokens, tokenise
from flexray.data.rows import Row, Survey, read, survey
from flexray.data.sources import Source

FORMAT = 1
"""Raise when the file's layout or the making of tokens changes."""
BATCH_ROWS = 2048


def build(data: Data, source: Source, encoder: Encoder, cache: Path) -> Path:
    """The corpus file of this source, made unless the cache has it. Any number of processes may ask at once."""
    key = _key(data, source, encoder)
    path = cache / "corpus" / f"{key}.arrow"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            found = survey(source, data)
            part = path.with_suffix(f".{os.getpid()}.part")
            try:
                _write(part, key, found, read(source, data, found), data, encoder)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    return path


def _key(data: Data, source: Source, encoder: Encoder) -> str:
    facts = {
        "format": FORMAT,
        "source": source.fingerprint,
        "columns": asdict(data.columns),
        "keep": {name: sorted(values) for name, values in sorted(data.keep.items())},
        "prompt": data.prompt,
        "max_length": data.max_length,
        "encoder": encoder.fingerprint,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _write(path: Path, key: str, found: Survey, rows: Iterator[Row], data: Data, encoder: Encoder) -> None:
    schema = _schema(key, found.columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            tokens = list(tokenise(batch, data.prompt, data.max_length, encoder))
            writer.write_batch(_record_batch(schema, batch, tokens, found.columns))


def _schema(key: str, columns: tuple[str, ...]) -> pa.Schema:
    fields = [
        ("tokens", pa.list_(pa.int32())),
        ("response_start", pa.int32()),
        ("cut", pa.int32()),
        ("split", pa.string()),
        ("label", pa.string()),
        *((COLUMN + name, pa.string()) for name in columns),
    ]
    return pa.schema([pa.field(name, kind) for name, kind in fields], metadata={FINGERPRINT: key})


def _record_batch(schema: pa.Schema, rows: list[Row], tokens: list[Tokens], columns: tuple[str, ...]) -> pa.RecordBatch:
    arrays = [
        _lists([t.tokens for t in tokens]),
        pa.array([t.response_start for t in tokens], pa.int32()),
        pa.array([int(t.cut) for t in tokens], pa.int32()),
        pa.array([row.split for row in rows], pa.string()),
        pa.array([row.label for row in rows], pa.string()),
        *(pa.array([row.columns[name] for row in rows], pa.string()) for name in columns),
    ]
    return pa.record_batch(arrays, schema=schema)


def _lists(lists: list[list[int]]) -> pa.Array:
    """A list<int32> array. Made from buffers: from lists of Python numbers it takes several times as long."""
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    values = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(offsets[-1]))
    inner = pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)])
    return pa.Array.from_buffers(pa.list_(pa.int32()), len(lists), [None, pa.py_buffer(offsets)], children=[inner])
