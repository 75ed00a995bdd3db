"""Columns are mapped, values become text, rows are kept or not; what cannot be is said with the column's dotted key."""

import json

import pytest

from flexray.data.options import Columns, Data
from flexray.data.partitions.iid import Iid
from flexray.data.rows import load_rows
from flexray.errors import ConfigError

ROWS = [
    {"q": "one", "a": 1, "kind": "x", "n": 7, "deep": [1]},
    {"q": None, "a": True, "kind": "y", "n": None},
    {"q": "three", "a": None, "kind": "x", "n": 0.5},
    {"q": "four\ud83d", "a": "d", "kind": "z"},
]
COLUMNS = Columns(instruction="q", output="a", label="kind")


def load(path, rows=ROWS, columns=COLUMNS, **kwargs):
    path = path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(Data(Iid(), str(path), columns=columns, **kwargs), seed=0)


def refused(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as e:
        load(*args, **kwargs)
    return str(e.value)


def test_values_become_text(tmp_path):
    rows = load(tmp_path)["train"]
    assert [(r.instruction, r.output, r.label) for r in rows] == [
        ("one", "1", "x"),
        ("", "True", "y"),
        ("three", "", "x"),
        ("four\ufffd", "d", "z"),
    ]
    assert {r.input for r in rows} == {""}
    assert [r.columns for r in rows] == [
        {"kind": "x", "n": "7"},
        {"kind": "y", "n": None},
        {"kind": "x", "n": "0.5"},
        {"kind": "z", "n": None},
    ]


def test_keep_chooses_rows_by_any_column(tmp_path):
    assert [r.instruction for r in load(tmp_path, keep={"kind": ["x"]})["train"]] == ["one", "three"]
    assert [r.instruction for r in load(tmp_path, keep={"kind": ["x"], "n": ["7"]})["train"]] == ["one"]


def test_rows_that_are_not_kept_need_no_label(tmp_path):
    rows = [{"q": "1", "a": "1", "kind": "x", "use": "yes"}, {"q": "2", "a": "2", "kind": None, "use": "no"}]
    assert len(load(tmp_path, rows, keep={"use": ["yes"]})["train"]) == 1
    assert "data.columns.label: expected a value of 'kind' in every row, got none in x.jsonl, line 2" in refused(tmp_path, rows)


def test_missing_columns_are_named_with_what_there_is(tmp_path):
    rows = [{"instruction": "1", "response": "2"}]
    message = refused(tmp_path, rows, Columns())
    assert message.startswith("data.columns.output: expected a column of x.jsonl (it has instruction, response), got 'output'")
    assert "did you mean 'response'?" in refused(tmp_path, rows, Columns(output="respons"))
    assert refused(tmp_path, rows, Columns(output="response", label="kind")).startswith("data.columns.label: ")
    assert refused(tmp_path, rows, Columns(output="response", input="context")).startswith("data.columns.input: ")
    assert refused(tmp_path, rows, Columns(output="response"), keep={"kind": ["x"]}).startswith("data.keep.kind: ")


def test_a_wrong_type_is_blamed_on_its_row(tmp_path):
    rows = [{"instruction": "1", "output": "2"}, {"instruction": "1", "output": {"text": "2"}}]
    message = refused(tmp_path, rows, Columns())
    assert "data.columns.output: expected text in the column 'output', got dict in x.jsonl, line 2" in message


def test_an_empty_file_is_refused(tmp_path):
    assert "expected rows, got none in x.jsonl" in refused(tmp_path, [])


def test_values_to_keep_must_exist(tmp_path):
    message = refused(tmp_path, keep={"kind": ["x", "zz"]})
    assert message.startswith("data.keep.kind: expected values of that column (x, y, z), got 'zz'")
    message = refused(tmp_path, keep={"kind": ["y"], "n": ["7"]})
    assert message.startswith("data.keep: expected rows to be left in every split, got none in train; ")
    assert "kind: x, y, z" in message


def test_rows_of_a_folder_know_their_file(tmp_path):
    for name in ("math_train", "code_train", "math_test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"instruction": "q", "output": name}) + "\n")
    rows = load_rows(Data(Iid(), str(tmp_path)), seed=0)
    assert {split: [r.columns["file"] for r in own] for split, own in rows.items()} == {
        "train": ["code", "math"],
        "test": ["math"],
    }
