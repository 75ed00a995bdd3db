"""Every format gives the same rows, and whatever is wrong with a file is said with file and line."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from flexray.data.readers import READERS
from flexray.errors import ConfigError

ROWS = [
    {"instruction": "Add, please", "output": "3", "key": "007"},
    {"instruction": 'Say "hi"\nloudly', "output": "hé", "key": "8"},
]


def write(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        quoted = [[f'"{str(v).replace(chr(34), chr(34) * 2)}"' for v in row.values()] for row in rows]
        path.write_text("\n".join(",".join(line) for line in [rows[0].keys(), *quoted]))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path):
    return list(READERS[path.suffix](path))


def refused(path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ConfigError) as e:
        read(path)
    message = str(e.value)
    assert message.startswith("data.path: expected ") and "; " in message and path.name in message
    return message


@pytest.mark.parametrize("suffix", READERS)
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    found = read(write(tmp_path / f"x{suffix}"))
    assert [values for _, values in found] == ROWS
    assert all(where.startswith(f"x{suffix}, ") for where, _ in found)


def test_json_lines_are_numbered_as_an_editor_does(tmp_path):
    assert [where for where, _ in read(write(tmp_path / "x.jsonl"))] == ["x.jsonl, line 1", "x.jsonl, line 3"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [values for _, values in read(path)] == ROWS


def test_a_json_file_of_one_object_a_line_is_read_as_such(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(write(tmp_path / "x.jsonl").read_bytes())
    assert [values for _, values in read(path)] == ROWS


@pytest.mark.parametrize("suffix", READERS)
def test_broken_files_are_refused(tmp_path, suffix):
    refused(tmp_path / f"x{suffix}", b"\x80\x81\x82,\n1,2,3\n")


def test_what_is_wrong_and_where(tmp_path):
    assert "valid JSON in x.jsonl, line 2" in refused(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": \n')
    assert "valid JSON in x.json, line 3" in refused(tmp_path / "x.json", b'[\n{"a": 1},\n{"a" 2}]')
    assert "UTF-8 text in x.jsonl, line 2, got byte 0xe9" in refused(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n')
    assert "UTF-8 text in x.json, got byte 0xe9" in refused(tmp_path / "x.json", b'[{"a": "\xe9"}]')
    assert "an object with named columns in x.jsonl, line 1, got list" in refused(tmp_path / "x.jsonl", b"[1]\n")
    assert "an object with named columns in x.json, row 2, got int" in refused(tmp_path / "x.json", b"[{}, 2]")
    assert "an array of objects in x.json, got str" in refused(tmp_path / "x.json", b'"hello"')
    assert "Expected 2 columns, got 3" in refused(tmp_path / "x.csv", b"a,b\n1,2\n1,2,3\n")
    assert "different names in x.csv, got 'a' twice" in refused(tmp_path / "x.csv", b"a,a\n1,2\n")
    assert "save it as UTF-8" in refused(tmp_path / "x.csv", b"a,b\n1,\xe9\n")
    assert "a Parquet file in x.parquet" in refused(tmp_path / "x.parquet", b"PAR1 but no more")


@pytest.mark.parametrize(
    ("suffix", "content"), [(".jsonl", b"\n"), (".json", b" "), (".json", b"[]"), (".csv", b""), (".csv", b"a,b\n")]
)
def test_a_file_without_rows_has_none(tmp_path, suffix, content):
    (tmp_path / f"x{suffix}").write_bytes(content)
    assert read(tmp_path / f"x{suffix}") == []


def test_a_large_csv_is_read_as_text_throughout(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("n,t\n" + "".join(f"{i:05d},{'x' * 300}\n" for i in range(5000)))
    found = read(path)
    assert len(found) == 5000
    assert found[7] == ("x.csv, row 8", {"n": "00007", "t": "x" * 300})
