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
from flexray.data.partitions.dirichlet_sizes import DirichletSizes
from flexray.data.partitions.from_file import FromFile
from flexray.data.partitions.iid import Iid
from flexray.data.partitions.shards import Shards
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


def places(prepared) -> dict[str, set[int]]:
    """All rows that anybody has in each split."""
    return {split: {int(r) for c in prepared.clients for r in getattr(c, split)} for split in ("train", "valid", "test")}


OVERLAPPING = [Iid(), ByLabel(2), Column("kind"), Dirichlet(0.5, min_rows=3), DirichletSizes(1.0, min_rows=5), Shards()]


@pytest.mark.parametrize("source", ["x_train.jsonl", "."])
@pytest.mark.parametrize("partition", OVERLAPPING)
def test_overlap_adds_rows_of_others_and_never_what_somebody_holds_out(folder, tmp_path, partition, source):
    plain = made(Data(partition, str(folder / source), columns=LABEL), 4, tmp_path)
    p = made(Data(replace(partition, overlap=0.25), str(folder / source), columns=LABEL), 4, tmp_path)
    for one, more in zip(plain.clients, p.clients, strict=True):
        for split in ("train", "valid", "test"):
            own, lent = getattr(one, split), getattr(more, split)
            assert len(lent) == len(own) + round(0.25 * len(own))
            assert np.all(np.diff(lent) > 0) and set(own) <= set(lent)
        assert sum(more.labels.values()) == len(more.train)
    everywhere = places(p)
    assert everywhere == places(plain)
    assert not (everywhere["train"] & everywhere["valid"] or everywhere["train"] & everywhere["test"])
    assert not everywhere["valid"] & everywhere["test"]
    assert "overlap: every client has 25% more rows, which other clients have too" in p.notes


def test_overlap_with_limits_and_with_nobody_to_lend(folder, tmp_path):
    data = Data(Iid(overlap=1.0), str(folder), columns=LABEL)
    assert set(sizes(made(replace(data, max_train_rows=9, max_test_rows=4), 4, tmp_path)).values()) == {(9, 4, 4)}
    assert list(sizes(made(data, 1, tmp_path)).values()) == [(67, 8, 40)]


def test_a_central_test_of_the_sources_own_rows(folder, tmp_path):
    data = Data(ByLabel(overlap=0.5), str(folder), columns=LABEL, test="central")
    p = made(data, None, tmp_path)
    assert all(np.array_equal(c.test, np.arange(80, 120)) for c in p.clients)
    assert sizes(p) == {
        "a": (21, 3, 40),
        "b": (25, 3, 40),
        "c": (27, 3, 40),
        "d": (27, 3, 40),
    }  # 14 + 7, 17 + 8.5 (to even: 8), 18 + 9; 2 + 1
    assert "test rows: the same 40 for every client, out of the data's test split" in p.notes
    few = made(replace(data, central_test_rows=3), None, tmp_path)
    labels = Corpus(few.corpus).labels
    assert sorted(labels[few.clients[0].test]) == list("aaabbbcccddd")
    assert "test rows: the same 12 for every client, 3 of each label, out of the data's test split" in few.notes
    assert {len(c.test) for c in made(replace(data, max_test_rows=7), None, tmp_path).clients} == {7}


@pytest.mark.parametrize("partition", [Iid(), Shards(), Dirichlet(0.5, min_rows=3), Dirichlet(with_replacement_rows=40)])
def test_a_central_test_set_aside_before_the_deal(folder, tmp_path, partition):
    data = Data(partition, str(folder / "x_train.jsonl"), columns=LABEL, test="central", central_test_rows=2)
    p, again, other = (made(data, 3, tmp_path, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(c.test, p.clients[0].test) for c in (*p.clients, *again.clients))
    assert not np.array_equal(other.clients[0].test, p.clients[0].test)
    corpus, found = Corpus(p.corpus), places(p)
    assert sorted(corpus.labels[p.clients[0].test]) == list("aabbccdd")
    assert np.all(corpus.lengths[p.clients[0].test] > 0)  # five rows have nothing to be scored on
    assert not (found["train"] | found["valid"]) & found["test"] and not found["train"] & found["valid"]
    if partition.disjoint:
        assert len(found["train"] | found["valid"] | found["test"]) == 75
    assert not any("of the train rows, for the data has no test split" in note for note in p.notes)
    assert "test rows: the same 8 for every client, 2 of each label, out of the train rows, before they were dealt" in p.notes


def test_a_central_test_without_labels_is_a_share_of_the_usable_train_rows(folder, tmp_path):
    data = Data(Iid(), str(folder / "x_train.jsonl"), test="central", test_fraction=0.2)
    assert {len(c.test) for c in made(data, 3, tmp_path).clients} == {15}  # of 75
    p = made(replace(data, max_test_rows=4), 3, tmp_path)
    assert len(places(p)["test"]) == 4 and len(set.union(*places(p).values())) == 75


def test_a_central_test_that_cannot_be(folder, tmp_path):
    data = Data(Iid(), str(folder), columns=LABEL, test="central", central_test_rows=11)
    given, cut = "(so many usable rows has 'a')", "(so many usable rows has 'a', with one left to train on)"
    assert refused(data, 2, tmp_path).startswith(f"data.central_test_rows: expected at most 10 {given}, got 11; lower it, or")
    data = replace(data, path=str(folder / "x_train.jsonl"), central_test_rows=16)  # 20 of a, four of them blank
    assert refused(data, 2, tmp_path).startswith(f"data.central_test_rows: expected at most 15 {cut}, got 16; lower it, or")
    wrong = Data(Iid(), central_test_rows=0, max_test_rows=3)
    assert [line.partition(":")[0] for line in refused(wrong, 2, tmp_path).splitlines()] == [
        *["data.central_test_rows"] * 3,
        "data.columns.label",
    ]


def test_rows_from_a_file_next_to_a_central_test(folder, tmp_path):
    """The file names every train row by its number in the data, those among them that are set aside."""
    (tmp_path / "who.json").write_text(json.dumps({"A": list(range(0, 80, 2)), "B": list(range(1, 80, 2))}))
    who, train = FromFile(str(tmp_path / "who.json")), str(folder / "x_train.jsonl")
    p = made(Data(who, train, columns=LABEL, test="central", central_test_rows=2), None, tmp_path)
    assert [(c.name, {int(r) % 2 for r in (*c.train, *c.valid)}) for c in p.clients] == [("A", {0}), ("B", {1})]
    assert {int(r) % 2 for r in p.clients[0].test} == {0, 1}
    (tmp_path / "who.json").write_text(json.dumps({"A": list(range(0, 80, 2)), "B": list(range(1, 79, 2))}))
    assert "got none for '79'; add the rest, or set data.partition.strict to false" in refused(Data(who, train), None, tmp_path)
    p = made(Data(replace(who, strict=False), train), None, tmp_path)
    assert "train rows that belong to no client, left out: 1" in p.notes


def test_rows_of_no_clients_kind_are_left_out(folder, tmp_path):
    write(folder / "x_test.jsonl", 40, kinds="abcde")
    p = made(Data(ByLabel(), str(folder), columns=LABEL), None, tmp_path)
    assert [len(c.test) for c in p.clients] == [8, 8, 8, 8]
    assert "test rows that belong to no client, left out: 8" in p.notes


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
        Dirichlet(-1.0, min_rows=0, overlap=1.5),
        max_length=3,
        valid_fraction=0.0,
        test_fraction=1.0,
        max_test_rows=0,
        keep={"kind": []},
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
        "data.partition.overlap",
    ]
    twice = refused(Data(Dirichlet(with_replacement_rows=20, overlap=0.1)), 2, tmp_path)
    assert twice.startswith("data.partition.overlap: expected 0 where rows are drawn with replacement, got 0.1")


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
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_dolly_as_in_the_papers_second_split(tmp_path, alpha):
    """10 clients × 1,000 rows drawn with replacement, a central test of 25 rows for each of four categories."""
    partition = Dirichlet(alpha, with_replacement_rows=1000, weigh="rows")
    data = Data(
        partition, str(SHARED / "dolly" / "dolly_train.jsonl"), columns=Columns(label="category"), keep={"category": FOUR}
    )
    p = made(replace(data, test="central", central_test_rows=25), 10, tmp_path)
    assert {(len(c.train), len(c.test)) for c in p.clients} == {(1000, 100)}
    corpus = Corpus(p.corpus)
    assert sorted(corpus.labels[p.clients[3].test]) == sorted(FOUR * 25)
    assert sum(len(set(c.train)) < 1000 for c in p.clients) == 10
    found = places(p)
    assert not (found["train"] & found["test"] or found["valid"] & found["test"] or found["train"] & found["valid"])


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
