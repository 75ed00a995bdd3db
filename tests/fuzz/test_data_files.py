"""No data file, however broken, meets a traceback: it works, or is refused by its name, with where it is wrong and what to do."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexray import folder
from flexray.data import readers, rows, sources
from flexray.data.options import Columns, Data
from flexray.data.prepare import prepare
from flexray.data.sources import find
from flexray.errors import ConfigError
from tests.data.bytes_encoder import Bytes
from tests.fuzz.test_configs import PROBLEM

ROWS = [{"instruction": f"do {i}", "input": "", "output": f"done {i}", "label": "ab"[i % 2]} for i in range(24)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "instruction,output,label\n" + "".join(f"{r['instruction']},{r['output']},{r['label']}\n" for r in ROWS)
LABEL = Columns(label="label")
IID = folder.load("data/partitions", "iid", "data.partition.name")()
ENDS = (".jsonl", ".json", ".csv", ".parquet")


def whole(end: str) -> bytes:
    if end == ".parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        return sink.getvalue().to_pybytes()
    return {".jsonl": LINES, ".json": json.dumps(ROWS), ".csv": CSV}[end].encode()


def clients(path: Path | str, cache: Path, **more: Any) -> int:
    """How many rows there are in all."""
    made = prepare(Data(IID, path=str(path), **more), 2, 0, Bytes(), cache)
    return sum(len(c.train) + len(c.valid) + len(c.test) for c in made.clients)


def refused(path: Path | str, cache: Path, **more: Any) -> str:
    with pytest.raises(ConfigError) as e:
        clients(path, cache, **more)
    (problem,) = e.value.problems
    assert PROBLEM.fullmatch(problem), problem
    return problem


def test_text_that_is_none(tmp_path):
    """Whatever its name says, a file is known by how it begins."""
    for end in ENDS[:3]:
        file, text = tmp_path / f"x{end}", whole(end).decode()
        for content, said in (
            (gzip.compress(text.encode()), "got a gzip archive; unpack it first"),
            (text.encode("utf-16"), "got UTF-16; save the file as UTF-8"),
            (text.encode("utf-16-le"), "got null bytes (UTF-16, or no text at all); save the file as UTF-8"),
            (whole(".parquet"), "got a Parquet file; name it .parquet"),
            (b"PK\x03\x04rest", "got a zip archive or a spreadsheet; unpack it, or save the sheet as CSV"),
        ):
            file.write_bytes(content)
            assert refused(file, tmp_path) == f"data.path: expected UTF-8 text in {file.name}, {said}"
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert clients(file, tmp_path) == 24


BROKEN = {
    "digits.jsonl": (LINES + '{"output": ' + "9" * 5000 + "}\n",
    "valid JSON in digits.jsonl, line 25, got Exceeds the limit (4300 digits)"),
    "deep.jsonl": (LINES + "[" * 100_000 + "\n", "valid JSON in deep.jsonl, line 25, got too many brackets within each other"),
    "twice.jsonl": (LINES + '{"output": "a", "output": "b"}\n',
    "valid JSON in twice.jsonl, line 25, got 'output' twice in one object"),
    "null.jsonl": (LINES + "\0\0\n", "valid JSON in null.jsonl, line 25, got Expecting value at column 1"),
    "nested.jsonl": (LINES + '{"output": {"a": 1}, "instruction": ""}\n',
    "got dict in nested.jsonl, line 25; choose another column"),
    "list.jsonl": (LINES + "[1]\n", "an object with named columns in list.jsonl, line 25, got list"),
    "cut.jsonl": (LINES[:-9], "valid JSON in cut.jsonl, line 24, got Unterminated string"),
    "nan.jsonl": (LINES + '{"output": "a", "instruction": "b", "label": NaN}\n',
    "a value of 'label' in every row, got none in nan.jsonl, line 25"),
    "none.jsonl": (LINES + '{"output": "a", "instruction": "b", "label": null}\n',
    "in every row, got none in none.jsonl, line 25"),
    "lacks.jsonl": (LINES + '{"output": "a", "instruction": "b"}\n',
    "in every row, got none in lacks.jsonl, line 25; mend the row"),
    "latin.jsonl": (LINES.encode() + '{"output": "é"}'.encode("latin-1"), "UTF-8 text in latin.jsonl, line 25, got byte 0xe9"),
    "latin.json": (json.dumps(ROWS[:1]).encode()[:-1] + b',\n{"output": "\xe9"}]', "got byte 0xe9 at position 85 (line 2)"),
    "more.json": (json.dumps(ROWS) + "]", "valid JSON in more.json, line 1, got Extra data"),
    "latin.csv": (CSV.encode() + "é,b,c\n".encode("latin-1"),
    "Row #26: CSV conversion error to string: invalid UTF8 data; save it as UTF-8"),
    "latin2.csv": ("é,b,c\n".encode("latin-1") + CSV.encode(), "UTF-8 text in latin2.csv, line 1"),
    "short.csv": (CSV + "a,b\n", "in short.csv, got CSV parse error: Row #26: Expected 3 columns, got 2"),
    "quote.csv": (CSV + '"a,b,c\n', "in quote.csv, got CSV parse error: Row #26"),
    "twice.csv": ("a,a\n1,2\n", "columns with different names in twice.csv, got 'a' twice"),
    "head.csv": ("instruction,output\n", "expected rows, got none in head.csv"),
    "empty.jsonl": ("", "expected rows, got none in empty.jsonl"),
    "one.jsonl": (json.dumps(ROWS[0]), "clients: expected at most as many as train rows (1), got 2"),
    "cut.parquet": (whole(".parquet")[:-20], "a Parquet file in cut.parquet, got Parquet magic bytes not found in footer"),
    "foot.parquet": (whole(".parquet")[:-8] + b"\xff\xff\xff\x7fPAR1",
    "a Parquet file in foot.parquet, got Parquet file size is"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_and_in_which_row(tmp_path, name):
    content, said = BROKEN[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    labelled = any(name.startswith(word) for word in ("nan", "none", "lacks"))
    assert said in refused(tmp_path / name, tmp_path, **({"columns": LABEL} if labelled else {}))


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"instruction": ["a"] * 24, "output": ["b"] * 24} | columns), path)
    return path


def test_parquet_with_values_that_are_none(tmp_path):
    x = tmp_path / "x.parquet"
    assert "got bytes in x.parquet, row 1" in refused(table(x, output=[b"b"] * 24), tmp_path)
    assert "got none in x.parquet, row 24" in refused(table(x, label=[1.5] * 23 + [float("nan")]), tmp_path, columns=LABEL)
    late = pa.array([1] * 23 + [2**62], pa.timestamp("ms"))
    assert "values that can be read in x.parquet, row 24, got" in refused(table(x, t=late), tmp_path)
    strings = pa.Array.from_buffers(
        pa.string(), 24, [None, pa.array([b"ab"] * 24).buffers()[1], pa.py_buffer(b"ok" * 23 + b"\xff\xfe")]
    )
    assert "values that can be read in x.parquet, row 24, got 'utf-8' codec" in refused(table(x, t=strings), tmp_path)
    pq.write_table(pa.table([pa.array(["a"] * 24)] * 3, names=["instruction", "output", "output"]), x)
    assert "columns with different names in x.parquet, got 'output' twice" in refused(x, tmp_path)
    pq.write_table(pa.Table.from_pylist(ROWS)[:0], x)
    assert "expected rows, got none in x.parquet" in refused(x, tmp_path)


def test_rows_of_any_size_and_line_ends_of_any_kind_are_read(tmp_path):
    for name, content in {
        "big.csv": CSV + "x" * 10_000_000 + ",b,c\n",
        "big.jsonl": LINES + json.dumps({"instruction": "x" * 10_000_000, "output": "y"}),
        "mixed.csv": CSV.replace("do 3", '"do\r3\n"').replace("done 5\n", "done 5\r\n"),
        "cr.csv": CSV.replace("\n", "\r"),
        "mixed.jsonl": LINES.replace("\n", "\r\n", 9) + "\n \n",
        "null.csv": CSV.replace("do 3", "d\0 3"),
        "half.jsonl": LINES + '{"instruction": "\\ud800", "output": "y"}',
    }.items():
        (tmp_path / name).write_text(content, newline="")
        assert clients(tmp_path / name, tmp_path) == 24 + (name.startswith(("big", "half"))), name


def test_what_is_no_file(tmp_path, monkeypatch):
    (tmp_path / "dir.jsonl").mkdir()
    assert "expected a folder with files ending in" in refused(tmp_path / "dir.jsonl", tmp_path)
    os.symlink("loop.jsonl", tmp_path / "loop.jsonl")
    assert "got a link that leads nowhere at" in refused(tmp_path / "loop.jsonl", tmp_path)
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "got something else at" in refused(tmp_path / "pipe.jsonl", tmp_path)
    assert "(File name too long); check the path" in refused("x" * 5000 + ".jsonl", tmp_path)
    assert "has no '~nobody-at-all'" in refused("~nobody-at-all/x.jsonl", tmp_path)
    assert "expected a file or folder" in refused("a\0b.jsonl", tmp_path)
    (tmp_path / "x.jsonl").write_text(LINES)

    def closed(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:  # a superuser may read anything
        patched.setattr(Path, "open", closed)
        assert "Permission denied; check its permissions" in refused(tmp_path / "x.jsonl", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", closed)
        assert "(Permission denied); check the path and its permissions" in refused(tmp_path, tmp_path)


def damaged(end: str) -> st.SearchStrategy[bytes]:
    """A file cut, with bytes turned, or put in."""
    good = whole(end)
    at = st.integers(0, len(good) - 1)
    return st.one_of(
        at.map(lambda i: good[:i]),
        st.builds(lambda i, b: good[:i] + bytes([good[i] ^ b]) + good[i + 1 :], at, st.integers(1, 255)),
        st.builds(lambda i, b: good[:i] + b + good[i:], at, st.binary(min_size=1, max_size=9)),
        st.builds(lambda i, j: good[: min(i, j)] + good[max(i, j) :], at, at),
        st.binary(max_size=60),
    )


def check(tmp_path: Path, end: str, examples: int) -> None:
    file = tmp_path / f"x{end}"

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(damaged(end), st.sampled_from((Columns(), LABEL)))
    def holds(content: bytes, columns: Columns) -> None:
        file.write_bytes(content)
        try:
            clients(file, tmp_path, columns=columns)
        except ConfigError as e:
            assert all(PROBLEM.fullmatch(problem) for problem in e.problems), e.problems

    holds()


@pytest.mark.parametrize("end", ENDS)
def test_damage_of_any_kind(tmp_path, end):
    check(tmp_path, end, 200)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_damage_of_many_kinds(tmp_path, end):
    check(tmp_path, end, 3000)


def test_a_folder_of_good_and_bad_files_names_the_bad_one(tmp_path):
    (tmp_path / "train.jsonl").write_text(LINES)
    (tmp_path / "test.jsonl").write_text(LINES + "{")
    assert "in test.jsonl, line 25" in refused(tmp_path, tmp_path / "cache")
    assert find(Data(IID, path=str(tmp_path)), 0, None).pieces[0].where == "test.jsonl"


def test_what_is_too_much(tmp_path, monkeypatch):
    """No line, file or text is taken whatever its size; each is refused before it is all in memory, and what is no text, before it is
    all read."""
    monkeypatch.setattr(readers, "LONGEST_LINE", 1 << 20)
    monkeypatch.setattr(readers, "LARGEST_ARRAY", 1 << 20)
    monkeypatch.setattr(rows, "LONGEST_TEXT", 1000)
    (tmp_path / "line.jsonl").write_text(LINES + "x" * ((1 << 20) + 1))
    assert "at most 1 MB in line.jsonl, line 25, got more in one line; " in refused(tmp_path / "line.jsonl", tmp_path)
    (tmp_path / "array.json").write_text(json.dumps(ROWS) + " " * (1 << 20))
    assert "at most 0 GB in array.json, got 0.0 GB; write one object a line" in refused(tmp_path / "array.json", tmp_path)
    (tmp_path / "text.jsonl").write_text(LINES + json.dumps({"instruction": "x", "output": "y" * 1001}) + "\n")
    said = "data.columns.output: expected at most 1,000 characters in text.jsonl, line 25, got 1,001; split the row, or drop it"
    assert refused(tmp_path / "text.jsonl", tmp_path) == said
    monkeypatch.setattr(sources, "_digest", lambda path: pytest.fail("it was read"))
    for name, begins in (("holes.jsonl", b""), ("holes.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(begins)
        os.truncate(tmp_path / name, 1 << 30)
        assert name in refused(tmp_path / name, tmp_path)


def test_names_of_columns(tmp_path):
    """A hundred thousand columns take seconds, not hours; a name that is no text is told."""
    names = ",".join(f"c{i}" for i in range(100_000))
    (tmp_path / "wide.csv").write_text(f"instruction,output,{names}\n")
    assert "expected rows, got none in wide.csv" in refused(tmp_path / "wide.csv", tmp_path)
    (tmp_path / "half.jsonl").write_text(LINES + '{"instruction": "a", "output": "b", "\\ud800": 1}\n')
    assert "valid JSON in half.jsonl, line 25, got half a surrogate pair in the name" in refused(
        tmp_path / "half.jsonl", tmp_path
    )
