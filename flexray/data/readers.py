"""Rows out of one file, each with where it stands, and errors that say where the file is wrong.

A row is (where, values): where to blame, as in `train.jsonl, line 7`, and the row's columns.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from flexray.errors import ConfigError

Row = tuple[str, dict[str, Any]]
READ_ROWS = 1000
CSV_BLOCK = 1 << 26  # bytes; a row must fit into one
LONGEST_LINE = 1 << 28  # bytes
LARGEST_ARRAY = 1 << 31  # bytes of a file that is parsed as a whole
KINDS = {
    b"\x1f\x8b": ("a gzip archive", "unpack it first"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"\xff\xfe": ("UTF-16", "save the file as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save the file as UTF-8"),
}
"""How files begin that are no text, whatever their names say; and what to do about them."""


def json_lines(path: Path) -> Iterator[Row]:
    """One object a line; blank lines are skipped."""
    with _opened(path) as f:
        for number, line in enumerate(iter(lambda: f.readline(LONGEST_LINE + 1), b""), start=1):
            where = f"{path.name}, line {number}"
            if len(line) > LONGEST_LINE:
                raise _wrong(where, f"at most {LONGEST_LINE >> 20} MB", "more in one line", "give each row a line of its own")
            text = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where)
            if text.strip():
                yield where, _an_object(_parsed(text, path, number), where)


def json_array(path: Path) -> Iterator[Row]:
    """An array of objects; a file of one object a line is read as such, whatever its name."""
    with _opened(path) as f:
        raw = _read_all(f, path).removeprefix(b"\xef\xbb\xbf")
    if raw.lstrip().startswith(b"{"):
        yield from json_lines(path)
        return
    rows = _parsed(_decoded(raw, path.name, raw), path, None) if raw.strip() else []
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

    _opened(path).close()
    read = arrow_csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False)
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    try:
        with arrow_csv.open_csv(path, read, parse) as reader:
            names = reader.schema.names
        _check_names(names, path.name)
        convert = arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        with arrow_csv.open_csv(path, read, parse, convert) as reader:
            yield from _numbered(path.name, (batch.to_pylist() for batch in reader))
    except UnicodeDecodeError:
        raise _wrong(f"{path.name}, line 1", "UTF-8 text", "other bytes", "save the file as UTF-8") from None
    except pa.ArrowInvalid as e:
        if str(e) == "Empty CSV file":
            return
        mend = "save it as UTF-8" if "UTF8" in str(e) else "mend the file"
        raise _wrong(path.name, "a CSV file with a header line", _first_line(e), mend) from None
    except OSError as e:
        raise _wrong(path.name, "a readable file", e.strerror or _first_line(e), "check its permissions") from None


def parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa

    try:
        with _parquet(path) as file:
            _check_names(file.schema_arrow.names, path.name)
            yield from _numbered(path.name, _as_rows(path.name, file.iter_batches(READ_ROWS)))
    except (pa.ArrowException, ValueError, OSError, MemoryError) as e:  # a length that is none asks for any memory
        raise _wrong(path.name, "a Parquet file", _first_line(e), "write the file again") from None


def _parquet(path: Path) -> Any:
    """The file, its footer read."""
    import pyarrow as pa
    from pyarrow import parquet as arrow_parquet

    try:
        return arrow_parquet.ParquetFile(path)
    except (pa.ArrowException, ValueError, OSError, MemoryError) as e:
        raise _wrong(path.name, "a Parquet file", _first_line(e), "write the file again") from None


def _as_rows(name: str, batches: Iterator[Any]) -> Iterator[list[dict[str, Any]]]:
    """Values of Python; which of many rows has one that Python cannot hold is looked for only then."""
    before = 0
    for batch in batches:
        try:
            yield batch.to_pylist()
        except (ValueError, OverflowError) as e:
            where = next((i for i in range(batch.num_rows) if not _holds(batch.slice(i, 1))), 0)
            raise _wrong(
                f"{name}, row {before + where + 1}", "values that can be read", _first_line(e), "mend that row"
            ) from None
        before += batch.num_rows


def _holds(row: Any) -> bool:
    try:
        return bool(row.to_pylist())
    except (ValueError, OverflowError):
        return False


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


def check(path: Path) -> None:
    """Raises ConfigError unless the file begins as its name says: before all of it is read."""
    if path.suffix.lower() == ".parquet":
        _parquet(path).close()
    else:
        _opened(path).close()


def _opened(path: Path) -> BinaryIO:
    """The file, if it begins as text does."""
    try:
        file = path.open("rb")
        begins = file.read(4)
    except OSError as e:
        raise _wrong(path.name, "a readable file", e.strerror, "check its permissions") from None
    found = next((kind for start, kind in KINDS.items() if begins.startswith(start)), None)
    if found or b"\0" in begins:
        file.close()
        got, mend = found or ("null bytes (UTF-16, or no text at all)", "save the file as UTF-8")
        raise _wrong(path.name, "UTF-8 text", got, mend)
    file.seek(0)
    return file


def _read_all(file: BinaryIO, path: Path) -> bytes:
    mend = "write one object a line in a .jsonl file, which is read line by line"
    try:
        if (size := path.stat().st_size) > LARGEST_ARRAY:
            raise _wrong(path.name, f"at most {LARGEST_ARRAY >> 30} GB", f"{size / 2**30:.1f} GB", mend)
        return file.read()
    except (OSError, MemoryError) as e:
        raise _wrong(path.name, "a file that fits into memory", _first_line(e), mend) from None


def _decoded(raw: bytes, where: str, whole: bytes = b"") -> str:
    """whole: of a file with many lines, to tell which."""
    try:
        return raw.decode()
    except UnicodeDecodeError as e:
        line = whole.count(b"\n", 0, e.start) + 1
        at = f"position {e.start}" + (f" (line {line})" if whole else "")
        raise _wrong(where, "UTF-8 text", f"byte 0x{raw[e.start]:02x} at {at}", "save the file as UTF-8") from None


def _parsed(text: str, path: Path, line: int | None) -> Any:
    where = f"{path.name}, line {line}" if line else path.name
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as e:
        where = f"{path.name}, line {line or e.lineno}"
        raise _wrong(where, "valid JSON", f"{e.msg} at column {e.colno}", "mend that line") from None
    except RecursionError:
        raise _wrong(where, "valid JSON", "too many brackets within each other", "mend it") from None
    except ValueError as e:  # a number of thousands of digits, a key that is there twice
        raise _wrong(where, "valid JSON", _first_line(e), "mend it") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object no key of which is there twice, or is no text."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"{Counter(name for name, _ in pairs).most_common(1)[0][0]!r} twice in one object")
    if odd := [name for name in made if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name)]:
        raise ValueError(f"half a surrogate pair in the name {odd[0]!a}")
    return made


def _check_names(names: list[str], where: str) -> None:
    if repeated := sorted(n for n, times in Counter(names).items() if times > 1):
        raise _wrong(where, "columns with different names", f"{repeated[0]!r} twice", "rename one")


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
