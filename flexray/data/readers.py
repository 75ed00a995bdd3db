"""Rows out of one file, each with where it stands, and errors that say where the file is wrong.

A row is (where, values): where to blame, as in `train.jsonl, line 7`, and the row's columns.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flexray.errors import ConfigError

Row = tuple[str, dict[str, Any]]
READ_ROWS = 1000
CSV_BLOCK = 1 << 26  # bytes; a row must fit into one


def json_lines(path: Path) -> Iterator[Row]:
    """One object a line; blank lines are skipped."""
    with _opened(path) as f:
        for number, line in enumerate(f, start=1):
            where = f"{path.name}, line {number}"
            text = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where)
            if text.strip():
                yield where, _an_object(_parsed(text, path, number), where)


def json_array(path: Path) -> Iterator[Row]:
    """An array of objects; a file of one object a line is read as such, whatever its name."""
    with _opened(path) as f:
        raw = f.read().removeprefix(b"\xef\xbb\xbf")
    if raw.lstrip().startswith(b"{"):
        yield from json_lines(path)
        return
    rows = _parsed(_decoded(raw, path.name), path, None) if raw.strip() else []
    if not isinstance(rows, list):
        raise _wrong(
            path.name, "an array of objects", type(rows).__name__, "write [{…}, {…}], or one object a line in a .jsonl file"
        )
    for number, row in enumerate(rows, start=1):
        where = f"{path.name}, row {number}"
        yield where, _an_object(row, where)


def csv(path: Path) -> Iterator[Row]:
    """Comma-separated, with a header line; every value stays text as it is."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    read = arrow_csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False)
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    try:
        with arrow_csv.open_csv(path, read, parse) as reader:
            names = reader.schema.names
        if repeated := {n for n in names if names.count(n) > 1}:
            raise _wrong(path.name, "a header with different names", f"{repeated.pop()!r} twice", "rename one")
        convert = arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        with arrow_csv.open_csv(path, read, parse, convert) as reader:
            yield from _numbered(path.name, (batch.to_pylist() for batch in reader))
    except pa.ArrowInvalid as e:
        if str(e) == "Empty CSV file":
            return
        mend = "save it as UTF-8" if "UTF8" in str(e) else "mend the file"
        raise _wrong(path.name, "a CSV file with a header line", _first_line(e), mend) from None
    except OSError as e:
        raise _wrong(path.name, "a readable file", e.strerror or _first_line(e), "check its permissions") from None


def parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet as arrow_parquet

    try:
        with arrow_parquet.ParquetFile(path) as file:
            yield from _numbered(path.name, (batch.to_pylist() for batch in file.iter_batches(READ_ROWS)))
    except (pa.ArrowInvalid, OSError) as e:
        raise _wrong(path.name, "a Parquet file", _first_line(e), "write the file again") from None


def saved_dataset(dataset: Any, where: str) -> Iterator[Row]:
    """Rows of a `datasets.Dataset`; class labels by their names. Nothing is decoded (images and the like stay bytes)."""
    names = {column: feature.names for column, feature in dataset.features.items() if hasattr(feature, "int2str")}
    tables = dataset.with_format("arrow").iter(READ_ROWS)
    for place, row in _numbered(where, (table.to_pylist() for table in tables)):
        for column, classes in names.items():
            if row[column] is not None and row[column] >= 0:
                row[column] = classes[row[column]]
        yield place, row


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".json": json_array,
    ".csv": csv,
    ".parquet": parquet,
}


def _opened(path: Path):
    try:
        return path.open("rb")
    except OSError as e:
        raise _wrong(path.name, "a readable file", e.strerror, "check its permissions") from None


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as e:
        got = f"byte 0x{raw[e.start]:02x} at position {e.start}"
        raise _wrong(where, "UTF-8 text", got, "save the file as UTF-8") from None


def _parsed(text: str, path: Path, line: int | None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        where = f"{path.name}, line {line or e.lineno}"
        raise _wrong(where, "valid JSON", f"{e.msg} at column {e.colno}", "mend that line") from None


def _an_object(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise _wrong(where, "an object with named columns", type(row).__name__, 'write {"instruction": …, "output": …}')


def _numbered(name: str, batches: Iterator[list[dict[str, Any]]]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for row in batch:
            number += 1
            yield f"{name}, row {number}", row


def _wrong(where: str, wanted: str, got: str | None, mend: str) -> ConfigError:
    return ConfigError(f"data.path: expected {wanted} in {where}, got {got}; {mend}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
