"""The laws of partitions, over everything that the folder contains."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from flexray import folder
from flexray.data.laws import deal_splits
from flexray.data.partition import Partition, Rows
from flexray.data.partitions.by_label import ByLabel
from flexray.data.partitions.column import Column
from flexray.data.partitions.dirichlet import Dirichlet
from flexray.data.partitions.dirichlet_sizes import DirichletSizes
from flexray.data.partitions.from_file import FromFile
from flexray.data.partitions.iid import Iid
from flexray.data.partitions.shards import Shards
from flexray.errors import ConfigError

CASES: list[tuple[Partition, int | None]] = [
    (Iid(), 7),
    (Iid(), 1),
    (ByLabel(), None),
    (ByLabel(), 6),
    (ByLabel(), 20),
    (ByLabel(3), 5),
    (Column("key"), None),
    (Column("key"), 4),
    (Dirichlet(0.1, min_rows=2), 8),
    (Dirichlet(0.5), 10),
    (Dirichlet(1000.0), 4),
    (DirichletSizes(0.2, min_rows=3), 9),
    (DirichletSizes(1000.0), 3),
    (Shards(), 10),
    (Shards(1), 7),
    (Shards(5), 1),
    (FromFile("who.csv"), None),
    (FromFile("who.csv", min_rows=50), 5),
]
DRAWN: list[tuple[Partition, int]] = [
    (Dirichlet(0.5, with_replacement_rows=200), 6),
    (Dirichlet(1.0, with_replacement_rows=1500, weigh="rows"), 3),
]
"""With replacement: neither disjoint nor covering."""
SEEDS = (0, 3, 2**40)
LABELS = tuple("abcdef")


def rows(split: str, count: int, seed: int) -> Rows:
    """Labels of unequal frequency, and a key of 13 values."""
    rng = np.random.default_rng([seed, count])
    labels = rng.choice(LABELS, size=count, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05]).astype(object)
    keys = np.array([f"k{i}" for i in rng.integers(13, size=count)], dtype=object)
    return Rows(labels, LABELS, {"key": keys}, np.arange(count), split)


SPLITS = {"train": rows("train", 900, 1), "valid": rows("valid", 500, 2), "test": rows("test", 2000, 3)}


@pytest.fixture(autouse=True)
def who(tmp_path, monkeypatch):
    """Where `from_file` looks: every fifth row of a split is of the same client."""
    lines = (f"{split},{i},site {i % 5}\n" for split, there in SPLITS.items() for i in range(len(there)))
    (tmp_path / "who.csv").write_text("split,row,client\n" + "".join(lines))
    monkeypatch.chdir(tmp_path)


def kinds(partition, split: Rows):
    return split.columns["key"] if isinstance(partition, Column) else split.labels


def test_every_partition_of_the_folder_is_tested():
    assert {type(p) for p, _ in CASES} == {folder.load("data/partitions", n, "x") for n in folder.listing("data/partitions")}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("partition", "clients"), CASES, ids=str)
def test_disjoint_covering_and_nobody_empty(partition, clients, seed):
    for split, dealt in deal_splits(partition, SPLITS, clients, seed).items():
        together = np.concatenate(list(dealt.values()))
        assert np.array_equal(np.sort(together), np.arange(len(SPLITS[split])))
        assert min(map(len, dealt.values())) > 0
        assert clients is None or len(dealt) == clients


@pytest.mark.parametrize(("partition", "clients"), CASES, ids=str)
def test_seeded(partition, clients):
    one, same, other = (deal_splits(partition, SPLITS, clients, seed) for seed in (5, 5, 6))
    for split in SPLITS:
        assert list(one[split]) == list(same[split]) == list(other[split])
        assert all(np.array_equal(one[split][name], same[split][name]) for name in one[split])
    if clients != 1 and not isinstance(partition, Column | FromFile) and partition != ByLabel():
        assert any(not np.array_equal(one["train"][name], other["train"][name]) for name in one["train"])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("partition", "clients"), CASES, ids=str)
def test_the_same_shares_in_every_split(partition, clients, seed):
    """A client has the same part of each kind's rows in every split, to one row (two: it may have given one away)."""
    dealt = deal_splits(partition, SPLITS, clients, seed)
    for split, there in SPLITS.items():
        of_train, of_split = kinds(partition, SPLITS["train"]), kinds(partition, there)
        if isinstance(partition, Iid | DirichletSizes | FromFile):
            of_train, of_split = np.zeros(len(of_train)), np.zeros(len(of_split))
        for name in dealt[split]:
            for kind in set(of_train):
                whole = ((of_train == kind).sum(), (of_split == kind).sum())
                own = ((of_train[dealt["train"][name]] == kind).sum(), (of_split[dealt[split][name]] == kind).sum())
                assert abs(own[0] / whole[0] - own[1] / whole[1]) <= 2 / whole[0] + 2 / whole[1]


@pytest.mark.parametrize(("partition", "clients"), CASES, ids=str)
def test_a_given_split_changes_nothing_for_the_train_rows(partition, clients):
    alone = deal_splits(partition, {"train": SPLITS["train"]}, clients, 0)["train"]
    beside = deal_splits(partition, SPLITS, clients, 0)["train"]
    assert all(np.array_equal(alone[name], beside[name]) for name in beside)


@pytest.mark.parametrize(("partition", "clients"), CASES, ids=str)
def test_the_minimum_is_kept_or_refused(partition, clients):
    sizes = [len(own) for own in deal_splits(partition, SPLITS, clients, 1)["train"].values()]
    assert min(sizes) >= partition.min_rows
    most = max(sizes) if isinstance(partition, Dirichlet | DirichletSizes) else min(sizes)  # those draw again
    with pytest.raises(
        ConfigError, match=rf"^data\.partition\.min_rows: expected {901 + most} train rows for every client, got \d"
    ):
        deal_splits(replace(partition, min_rows=901 + most), SPLITS, clients, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("partition", "clients"), DRAWN, ids=str)
def test_with_replacement_everybody_has_as_many_rows_as_asked(partition, clients, seed):
    dealt, again = (deal_splits(partition, SPLITS, clients, seed) for _ in range(2))
    for split, rows_of in dealt.items():
        each = round(partition.with_replacement_rows * len(SPLITS[split]) / 900)
        assert [len(own) for own in rows_of.values()] == [each] * clients
        assert all(np.array_equal(own, again[split][name]) for name, own in rows_of.items())
    assert len(np.unique(np.concatenate([*dealt["train"].values()]))) < clients * partition.with_replacement_rows
    alone = deal_splits(partition, {"train": SPLITS["train"]}, clients, seed)["train"]
    assert all(np.array_equal(alone[name], dealt["train"][name]) for name in alone)


@pytest.mark.parametrize(("partition", "clients"), CASES, ids=str)
def test_too_few_rows_are_a_clear_error(partition, clients):
    few = Rows(np.array(["a"], object), ("a",), {"key": np.array(["k"], object)}, np.arange(1))
    try:
        (own,) = deal_splits(partition, {"train": few}, clients, 0)["train"].values()
    except ConfigError as e:
        assert " expected " in str(e) and "; " in str(e)
    else:
        assert own.tolist() == [0]


@pytest.mark.parametrize(("partition", "clients"), CASES, ids=str)
def test_a_partition_is_a_value(partition, clients):
    assert pickle.loads(pickle.dumps(partition)) == replace(partition) == partition
    assert hash(partition) == hash(replace(partition))
