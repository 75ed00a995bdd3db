"""A deal made elsewhere: both forms of the file, and what is said where file and data do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from flexray.data.laws import deal_splits
from flexray.data.partition import Rows
from flexray.data.partitions.from_file import FromFile
from flexray.errors import ConfigError


def rows(ids, split="train", numbers=None) -> Rows:
    labels, there = np.array([""] * len(ids), object), np.arange(len(ids)) if numbers is None else np.array(numbers)
    return Rows(labels, (), {"ref": np.array(list(ids), object)}, there, split)


SPLITS = {"train": rows("abcd"), "test": rows("xy", "test")}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(text, name="who.csv") -> str:
    Path(name).write_text(text if isinstance(text, str) else json.dumps(text))
    return name


def dealt(partition, splits=None) -> dict[str, dict[str, list[int]]]:
    splits = splits or SPLITS
    partition.inspect(splits)
    found = deal_splits(partition, splits, None, 0)
    return {split: {name: own.tolist() for name, own in pieces.items()} for split, pieces in found.items()}


def refused(partition, splits=None) -> str:
    with pytest.raises(ConfigError) as e:
        dealt(partition, splits)
    return str(e.value)


WANTED = {"train": {"B": [0, 3], "a": [1, 2]}, "test": {"B": [1], "a": [0]}}


@pytest.mark.parametrize("name", ["who.csv", "who.jsonl", "who.json", "lists.json"])
def test_by_id_in_every_form(name):
    owner = {"b": "a", "c": "a", "a": "B", "d": "B", "x": "a", "y": "B"}
    table = [{"id": row, "client": client, "note": 1} for row, client in owner.items()]
    texts = {
        "who.csv": "client,id\n" + "".join(f"{client},{row}\n" for row, client in owner.items()),
        "who.jsonl": "".join(json.dumps(line) + "\n" for line in table),
        "who.json": json.dumps(table),
        "lists.json": json.dumps({"a": ["b", "c", "x"], "B": ["a", "d", "y"]}),
    }
    assert dealt(FromFile(put(texts[name], name), "ref")) == WANTED


def test_by_row_number():
    lines = ["0,B,", "1,a,train", "2,a,training", "3,B,", "0,a,test", "1,B,test"]
    assert dealt(FromFile(put("row,client,split\n" + "\n".join(lines)))) == WANTED
    train = {"train": SPLITS["train"]}
    assert dealt(FromFile(put({"B": [0, 3], "a": ["1", 2]}, "l.json")), train)["train"] == WANTED["train"]


def test_rows_keep_their_numbers_where_others_are_set_aside():
    """Rows 1 and 3 of the data are left to deal; the file still calls them 1 and 3."""
    name = put({"a": [0, 3], "b": [1, 2]}, "who.json")
    left = {"train": rows("bd", numbers=[1, 3])}
    found = deal_splits(FromFile(name), left, None, 0)["train"]
    assert {client: own.tolist() for client, own in found.items()} == {"a": [1], "b": [0]}


def test_the_same_id_in_two_splits_needs_the_split():
    twice = {"train": rows("ab"), "test": rows("ab", "test")}
    told = put("id,client,split\na,A,train\nb,B,train\na,B,test\nb,A,test\n")
    assert dealt(FromFile(told, "ref"), twice) == {"train": {"A": [0], "B": [1]}, "test": {"A": [1], "B": [0]}}
    message = refused(FromFile(put("id,client\na,A\nb,B\n"), "ref"), twice)
    assert message.startswith(
        "data.partition.id: expected values of 'ref' that are of one row each, got 'a', 'b' of more; choose another"
    )


WRONG = [
    (
        "id,client\na,A\nb,A\na,B\n",
        "expected every row once in who.csv, got 'a' more than once ('a' at A and B); keep one of each",
    ),
    ("id,client\na,A\n", "expected a client for every train row in who.csv, got none for 'b', 'c', 'd'; add the rest, or set"),
    ("id,client\na,A\nb,A\nc,A\nd,A\nx,A\n", "expected a client for every test row in who.csv, got none for 'y'; add"),
    (
        "id,client\n" + "".join(f"{i},A\n" for i in "abcdxyz1234"),
        "in who.csv, got 'z', '1', '2' and 2 more, which no row has; mend",
    ),
    ("id,client\n", "expected rows and their clients in who.csv, got none; give it some"),
    ("id,who\na,A\n", "expected `id` and `client` in who.csv, row 1, got 'a' and None; give every row both"),
    ("id,client\na,\n", "expected `id` and `client` in who.csv, row 1"),
    ("id,client,split\na,A,tset\n", "expected train, valid or test as the split in who.csv, row 1, got 'tset'"),
    ("id,id\na,A\n", "expected columns with different names in who.csv, got 'id' twice; rename one"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_files_that_do_not_fit(text, said):
    message = refused(FromFile(put(text), "ref"))
    assert message.startswith("data.partition.path: expected ") and said in message


def test_files_that_are_none():
    assert refused(FromFile("no.csv")) == (
        "data.partition.path: expected a file, got 'no.csv'; check the path, relative to the working directory"
    )
    assert "a file ending in .jsonl, .json, .csv, .parquet, got 'who.txt'" in refused(FromFile(put("x", "who.txt")))
    assert "expected valid JSON in who.json, line 1" in refused(FromFile(put("{", "who.json")))


def test_what_does_not_fit_may_be_left_out():
    """c is nobody's, z no row's, and C has nothing but z: so C is no client."""
    partition = FromFile(put({"A": ["a", "x"], "B": ["b", "d", "y"], "C": ["z"]}, "who.json"), "ref", strict=False)
    assert dealt(partition) == {"train": {"A": [0], "B": [1, 3]}, "test": {"A": [0], "B": [1]}}
    assert partition.inspect(SPLITS) == ("1 row that who.json names is not in the data",)
    alien = FromFile(put({"A": ["z"]}, "who.json"), "ref", strict=False)
    assert refused(alien).endswith("expected values of 'ref' of the data in who.json, got 'z', which no row has; mend the file")


def test_a_split_that_the_file_leaves_out_is_told():
    message = refused(FromFile(put({"A": [0, 1], "B": [2, 3]}, "who.json")))
    assert message.startswith("data.partition: expected test rows for every client, got none for 'A' and 1 more; ")
    assert "or set data.test to central" in message
