"""Every client has train, valid and test rows: given or cut, by the seed, none in two places, the rest counted and told."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flexray.data.corpus import Corpus
from flexray.data.options import Columns, Data
from flexray.data.partitions.by_label import ByLabel
from flexray.data.partitions.column import Column
from flexray.data.partitions.dirichlet import Dirichlet
from flexray.data.partitions.iid import Iid
from flexray.data.prepare import prepare
from flexray.errors import ConfigError
from tests.data.bytes_encoder import SHARED, Bytes, needs_shared

LABEL = Columns(label="kind")
FOUR = ["classification", "closed_qa", "information_extraction", "summarization"]


def write(path, count, kinds="abcd", blank=(), start=0):
    rows = (
        {"instruction": f"{path.stem} {i}", "output": " " if i in blank else str(i), "kind": kinds[i % len(kinds)]}
        for i in range(start, start + count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path):
    """80 train rows of four kinds, five of them blank, and 40 test rows."""
    write(tmp_path / "x_train.jsonl", 80, blank=(0, 4, 8, 12, 13))
    write(tmp_path / "x_test.jsonl", 40)
    return tmp_path


def made(data, clients, tmp_path, seed=0):
    return prepare(data, clients, seed, Bytes(), tmp_path / "cache")


def refused(*args) -> str:
    with pytest.raises(ConfigError) as e:
        made(*args)
    return str(e.value)


def sizes(prepared):
    return {c.name: (len(c.train), len(c.valid), len(c.test)) for c in prepared.clients}


def test_given_splits_are_dealt_and_missing_ones_cut(folder, tmp_path):
    p = made(Data(ByLabel(), str(folder), columns=LABEL), None, tmp_path)
    # 20 rows of each kind: four blank ones at a, one at b; a tenth of the rest (2) becomes valid.
    assert sizes(p) == {"a": (14, 2, 10), "b": (17, 2, 10), "c": (18, 2, 10), "d": (18, 2, 10)}
    assert [c.dropped for c in p.clients] == [4, 1, 0, 0]
    assert [c.labels for c in p.clients] == [{"a": 14}, {"b": 17}, {"c": 18}, {"d": 18}]
    assert p.notes == (
        "valid rows: 10% of the train rows, for the data has no valid split",
        "5 rows without a response dropped, at 2 of 4 clients",
    )


@pytest.mark.parametrize("partition", [Iid(), ByLabel(2), Column("kind"), Dirichlet(0.5, min_rows=3)])
def test_no_row_is_in_two_places(folder, tmp_path, partition):
    p = made(Data(partition, str(folder), columns=LABEL), 4, tmp_path)
    corpus = Corpus(p.corpus)
    rows = np.concatenate([rows for c in p.clients for rows in (c.train, c.valid, c.test)])
    assert len(set(rows)) == len(rows) == 115
    assert rows.dtype == np.int64
    for c in p.clients:
        assert set(corpus.splits[c.train]) == set(corpus.splits[c.valid]) == {"train"}
        assert set(corpus.splits[c.test]) == {"test"}
        assert all(np.all(np.diff(own) > 0) for own in (c.train, c.valid, c.test))


def test_one_file_gives_all_three(tmp_path):
    p = made(Data(Iid(), str(write(tmp_path / "x.jsonl", 40)), test_fraction=0.2), 4, tmp_path)
    assert set(sizes(p).values()) == {(7, 1, 2)}
    p = made(Data(Iid(), str(tmp_path / "x.jsonl")), 13, tmp_path)
    assert all(min(s) == 1 for s in sizes(p).values())


def test_the_same_seed_gives_the_same_rows_and_another_others(folder, tmp_path):
    data = Data(Iid(), str(folder))
    a, b, c = (made(data, 4, tmp_path, seed) for seed in (0, 0, 1))
    for split in ("train", "valid", "test"):
        assert all(np.array_equal(getattr(x, split), getattr(y, split)) for x, y in zip(a.clients, b.clients, strict=True))
        assert not np.array_equal(getattr(a.clients[0], split), getattr(c.clients[0], split))


def test_limits_choose_by_the_seed(folder, tmp_path):
    data = Data(ByLabel(), str(folder), columns=LABEL, max_train_rows=5, max_valid_rows=1, max_test_rows=3)
    a, b = made(data, None, tmp_path), made(data, None, tmp_path, seed=1)
    assert set(sizes(a).values()) == {(5, 1, 3)}
    assert a.clients[0].labels == {"a": 5}
    assert not np.array_equal(a.clients[0].test, b.clients[0].test)
    every = made(replace(data, max_train_rows=None), None, tmp_path).clients[0]
    assert set(a.clients[0].train) < set(every.train)


def test_held_out_rows_are_set_aside_before_a_draw_with_replacement(tmp_path):
    data = Data(Dirichlet(1.0, with_replacement_rows=30), str(write(tmp_path / "x.jsonl", 80)), columns=LABEL)
    p = made(data, 6, tmp_path)
    assert {len(c.train) for c in p.clients} == {30}
    for split, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        one, two = ({int(r) for c in p.clients for r in getattr(c, s)} for s in (split, other))
        assert one and two and not one & two


def test_rows_of_no_clients_kind_are_left_out(folder, tmp_path):
    write(folder / "x_test.jsonl", 40, kinds="abcde")
    p = made(Data(ByLabel(), str(folder), columns=LABEL), None, tmp_path)
    assert [len(c.test) for c in p.clients] == [8, 8, 8, 8]
    assert "8 test rows are of no client's kind, left out" in p.notes


def test_too_long_rows_are_told(folder, tmp_path):
    p = made(Data(Iid(), str(folder), max_length=40), 2, tmp_path)
    assert "115 of 115 rows lost their prompt's middle, to fit data.max_length" in p.notes


def test_a_split_without_rows_of_a_clients_kind_is_refused(folder, tmp_path):
    write(folder / "x_test.jsonl", 30, kinds="abc")
    message = refused(Data(ByLabel(), str(folder), columns=LABEL), None, tmp_path)
    assert message.startswith("data.partition: expected test rows for every client, got none for 'd'; ")
    assert "leave the test split out of the data" in message


def test_a_client_with_too_few_rows_is_named(tmp_path):
    data = Data(Iid(), str(write(tmp_path / "x.jsonl", 11, blank=(1, 2, 3, 4))))
    message = refused(data, 5, tmp_path)
    assert message.startswith("data.partition: expected at least one train, valid and test row for every client, got train ")
    assert "for 'client-0" in message and "lower clients" in message


def test_what_partitions_need_is_asked_for(folder, tmp_path):
    plain = Data(Iid(), str(folder))
    for partition in (ByLabel(), Dirichlet()):
        assert refused(replace(plain, partition=partition), 4, tmp_path).startswith(
            "data.columns.label: expected a column with"
        )
    message = refused(replace(plain, partition=Column("knd")), None, tmp_path)
    assert message == "data.partition.column: expected a column of the data (file, kind), got 'knd'; did you mean 'kind'?"
    for partition in (Iid(), Dirichlet()):
        data = replace(plain, partition=partition, columns=LABEL)
        assert refused(data, None, tmp_path).startswith("clients: expected a number with `data.partition.name: ")
    assert refused(plain, 81, tmp_path).startswith("clients: expected at most as many as train rows (80), got 81")
    assert refused(plain, 0, tmp_path).startswith("clients: expected at least 1, got 0")


def test_every_wrong_value_is_told_at_once(tmp_path):
    wrong = Data(
        Dirichlet(-1.0, min_rows=0), max_length=3, valid_fraction=0.0, test_fraction=1.0, max_test_rows=0, keep={"kind": []}
    )
    keys = [line.split(":")[0] for line in refused(wrong, 2, tmp_path).splitlines()]
    assert keys == [
        "data.max_length",
        "data.valid_fraction",
        "data.test_fraction",
        "data.valid_fraction",
        "data.max_test_rows",
        "data.keep.kind",
        "data.partition.alpha",
        "data.partition.min_rows",
    ]


def test_the_builtin_corpus(tmp_path):
    p = made(Data(Column("client"), columns=Columns(label="domain")), 3, tmp_path)
    assert [c.name for c in p.clients] == ["client-0", "client-1", "client-2"]
    assert all(min(s) > 0 for s in sizes(p).values())
    assert p.notes == ()


@needs_shared
@pytest.mark.parametrize("partition", [ByLabel(), Column("category")])
def test_dolly_as_in_the_paper(tmp_path, partition):
    data = Data(partition, str(SHARED / "dolly"), columns=Columns(label="category"), keep={"category": FOUR}, max_test_rows=100)
    p = made(data, 4, tmp_path)
    assert sizes(p) == {
        "classification": (1535, 170, 100),
        "closed_qa": (1266, 141, 100),
        "information_extraction": (1078, 120, 100),
        "summarization": (854, 95, 100),
    }
    assert all(c.labels == {c.name: len(c.train)} for c in p.clients)


@needs_shared
@pytest.mark.parametrize(
    ("path", "column", "clients"), [("tasks", "task", 42), ("natural", "service", 24), ("domains", "file", 4)]
)
def test_natural_keys_of_real_data(tmp_path, path, column, clients):
    p = made(Data(Column(column), str(SHARED / path)), None, tmp_path)
    assert len(p.clients) == clients
    corpus = Corpus(p.corpus)
    values = corpus.column(column)
    for c in p.clients:
        assert {*values[c.train], *values[c.valid], *values[c.test]} == {c.name}
