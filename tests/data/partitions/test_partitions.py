"""What each partition does besides the laws, and what is said of a partition that breaks them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.data.dealing import NOBODY, Share, by_shares, client_names, counts, equal
from flexray.data.laws import deal_splits
from flexray.data.partition import Partition, Rows
from flexray.data.partitions.by_label import ByLabel
from flexray.data.partitions.column import Column
from flexray.data.partitions.dirichlet import Dirichlet
from flexray.data.partitions.dirichlet_sizes import DirichletSizes
from flexray.data.partitions.iid import Iid
from flexray.data.partitions.shards import Shards
from flexray.data.seeds import Purpose, generator
from flexray.errors import ConfigError


def rows(labels, split="train", vocabulary=None) -> Rows:
    values = np.array(list(labels), dtype=object)
    return Rows(values, vocabulary or tuple(sorted(set(labels))), {"key": values}, np.arange(len(values)), split)


def dealt(partition, labels, clients=None, seed=0) -> dict[str, list[str]]:
    """Client to the labels of its rows, sorted."""
    train = rows(labels)
    return {n: sorted(train.labels[p]) for n, p in deal_splits(partition, {"train": train}, clients, seed)["train"].items()}


def refused(*args) -> str:
    with pytest.raises(ConfigError) as e:
        dealt(*args)
    return str(e.value)


def test_counts_add_up_and_follow_the_fractions():
    assert counts(equal(range(4)), 10).tolist() == [3, 2, 3, 2]
    assert counts(Share(np.arange(3), np.array([0.7, 0.2, 0.1])), 10).tolist() == [7, 2, 1]
    assert counts(Share(np.arange(2), np.array([1.0, 0.0])), 5).tolist() == [5, 0]
    assert counts(equal(range(3)), 0).tolist() == [0, 0, 0]


def test_names_sort_as_numbers_do():
    assert client_names(3) == ["client-00", "client-01", "client-02"]
    assert client_names(101) == sorted(client_names(101))


def test_a_client_that_would_be_empty_gets_a_row_of_its_main_kind():
    shares = [Share(np.arange(3), np.array([0.5, 0.45, 0.05])), Share(np.arange(3), np.array([0.69, 0.3, 0.01]))]
    kinds = np.array([0] * 4 + [1] * 4 + [NOBODY])
    pieces = by_shares(kinds, shares, 3, np.random.default_rng(0))
    assert [len(p) for p in pieces] == [4, 3, 1]
    assert kinds[pieces[2]].tolist() == [0]


def test_iid_sizes_differ_by_one():
    assert sorted(len(own) for own in dealt(Iid(), "x" * 23, 5).values()) == [4, 4, 5, 5, 5]


def test_by_label_one_client_for_each_label_by_name():
    assert dealt(ByLabel(), "bacabc") == {"a": list("aa"), "b": list("bb"), "c": list("cc")}


def test_by_label_uses_all_labels_equally_often():
    for seed in range(10):
        own = dealt(ByLabel(2), "abcdef" * 20, 10, seed)
        assert all(len(set(labels)) == 2 for labels in own.values())
        assert [sum(label in labels for labels in own.values()) for label in "abcdef"].count(3) == 4
        assert list(own) == client_names(10)
    pairs = {tuple(set(labels)) for seed in range(10) for labels in dealt(ByLabel(2), "abcdef" * 20, 10, seed).values()}
    assert len(pairs) > 5


def test_by_label_numbers_that_cannot_be():
    assert refused(ByLabel(), "abc", 2).startswith("data.partition.labels_per_client: expected the 3 labels to be all held")
    assert "(3: a, b, c), got 4; lower it" in refused(ByLabel(4), "abc")


def test_column_balances_values_by_rows():
    own = dealt(Column("key"), "a" * 6 + "b" * 3 + "c" * 3 + "d" * 2, 2)
    assert own == {"client-00": list("aaaaaadd"), "client-01": list("bbbccc")}
    assert list(dealt(Column("key"), "ab", 2)) == ["a", "b"]


def test_column_with_more_clients_than_values_or_missing_values():
    assert refused(Column("key"), "aab", 3).startswith(
        "clients: expected at most as many as values of the column 'key' (2), got 3"
    )
    train = Rows(np.array(["", "", ""], object), (), {"key": np.array(["a", None, "b"], object)}, np.arange(3))
    with pytest.raises(
        ConfigError, match=r"^data\.partition\.column: expected a value of 'key' in every train row, got 1 of 3 without"
    ):
        deal_splits(Column("key"), {"train": train}, None, 0)


def test_dirichlet_skew_falls_with_alpha():
    def skew(alpha):
        own = dealt(Dirichlet(alpha, min_rows=1), "abcd" * 250, 5)
        return np.mean([max(labels.count(x) for x in "abcd") / len(labels) for labels in own.values()])

    assert skew(0.05) > 0.7 > skew(1.0) > 0.3 > skew(1000.0) >= 0.25


def test_dirichlet_shares_have_the_right_mean_and_spread():
    """The share of a client in a label is Beta(alpha, (C−1)·alpha): mean 1/C, variance (C−1)/(C²·(C·alpha+1))."""
    shares = []
    for seed in range(150):
        own = dealt(Dirichlet(0.5, min_rows=1), "ab" * 500, 4, seed)
        shares += [labels.count("a") / 500 for labels in own.values()]
    assert np.mean(shares) == pytest.approx(0.25)
    assert np.var(shares) == pytest.approx(3 / (16 * 3), rel=0.15)


def test_dirichlet_gives_up_with_what_to_change():
    message = refused(Dirichlet(0.01, min_rows=40), "ab" * 50, 3)
    assert message.startswith("data.partition.min_rows: expected 40 train rows for every client, got ")
    assert "best of 200 draws; raise data.partition.alpha" in message


def test_dirichlet_with_replacement():
    partition = Dirichlet(0.3, with_replacement_rows=500)
    splits = {"train": rows("abcd" * 50), "test": rows("abcd" * 10, "test", tuple("abcd"))}
    found = deal_splits(partition, splits, 6, 0)
    assert {len(p) for p in found["train"].values()} == {500} and {len(p) for p in found["test"].values()} == {100}
    for name in found["train"]:
        train, test = ([np.mean(splits[s].labels[found[s][name]] == x) for x in "abcd"] for s in ("train", "test"))
        assert np.abs(np.subtract(train, test)).max() < 0.2
    again = deal_splits(partition, splits, 6, 0)
    assert all(np.array_equal(found["train"][n], again["train"][n]) for n in again["train"])


def test_dirichlet_with_replacement_by_labels_or_by_rows():
    """300 rows of a, 100 of b. A mixture (m, 1−m) gives a the share m, or 3m/(3m + 1−m) where rows weigh: 1/2 becomes 3/4."""
    own = {w: dealt(Dirichlet(1e6, with_replacement_rows=4000, weigh=w), "aaab" * 100, 5) for w in ("labels", "rows")}
    for weigh, share in (("labels", 0.5), ("rows", 0.75)):
        assert [labels.count("a") / 4000 for labels in own[weigh].values()] == pytest.approx([share] * 5, abs=0.03)
    found = Dirichlet(weigh="rows").check(), Dirichlet(with_replacement_rows=5).check()
    assert [problem.split(":")[0] for (problem,) in found] == ["weigh", "with_replacement_rows"]


def test_dirichlet_sizes_have_the_right_mean_and_spread():
    """A client's share of the rows is Beta(alpha, (C−1)·alpha): mean 1/C, variance (C−1)/(C²·(C·alpha+1)) = 3/(16·5)."""
    own = [dealt(DirichletSizes(1.0, min_rows=1), "ab" * 500, 4, seed) for seed in range(150)]
    shares = [len(labels) / 1000 for one in own for labels in one.values()]
    assert np.mean(shares) == 0.25
    assert np.var(shares) == pytest.approx(3 / (16 * 5), rel=0.15)
    mixes = [labels.count("a") / len(labels) for one in own for labels in one.values() if len(labels) > 100]
    assert np.mean(mixes) == pytest.approx(0.5, abs=0.01) and np.std(mixes) < 0.05


def test_dirichlet_sizes_give_up_with_what_to_change():
    message = refused(DirichletSizes(0.001, min_rows=30), "a" * 100, 3)
    assert message.startswith("data.partition.min_rows: expected 30 train rows for every client, got ")
    assert refused(DirichletSizes(), "a" * 100, None).startswith(
        "clients: expected a number with `data.partition.name: dirichlet_sizes`"
    )


def test_shards_of_one_label_each():
    """20 rows in 10 shards of 2; 8 of a are four shards, 12 of b six; five clients have two shards each."""
    for seed in range(5):
        own = dealt(Shards(), "a" * 8 + "b" * 12, 5, seed)
        assert all(len(labels) == 4 and labels.count("a") in (0, 2, 4) for labels in own.values())
    assert len({tuple(map(tuple, dealt(Shards(), "a" * 8 + "b" * 12, 5, seed).values())) for seed in range(5)}) > 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_shards_are_the_sorted_rows_cut_in_equal_parts(sizes, clients, each, seed):
    """Each client's labels are those of some of the slices of the sorted list, and every slice is used once."""
    labels = [label for label, n in zip("abcdef", sizes, strict=False) for _ in range(n)]
    if clients * each > len(labels):
        assert "shards_per_client: expected at most as many shards as train rows" in refused(
            Shards(each), labels, clients, seed
        ) or (clients > len(labels))
        return
    edges = [i * len(labels) // (clients * each) for i in range(clients * each + 1)]
    slices = [sorted(labels[a:b]) for a, b in pairwise(edges)]
    own = dealt(Shards(each), labels, clients, seed)
    owners = generator(seed, Purpose.SHARES).permutation(clients * each) // each
    for number, found in enumerate(own.values()):
        assert found == sorted(label for i in np.flatnonzero(owners == number) for label in slices[i])


@dataclass(frozen=True)
class Mine(Partition):
    """A user's partition, with whatever it gets wrong."""

    wrong: str = ""

    def deal(self, rows, train, clients, seed):
        assert clients is not None
        pieces = {f"c{k}": np.arange(k, len(rows), clients) for k in range(clients)}
        if self.wrong == "twice":
            pieces["c0"] = np.append(pieces["c0"], pieces["c1"][0])
        if self.wrong == "left":
            pieces["c0"] = pieces["c0"][1:]
        if self.wrong == "beyond":
            pieces["c0"] = pieces["c0"] + len(rows)
        if self.wrong == "empty":
            pieces["c0"], pieces["c1"] = np.append(pieces["c0"], pieces["c1"]), pieces["c1"][:0]
        if self.wrong == "names" and rows.split == "test":
            pieces = dict(reversed(pieces.items()))
        if self.wrong == "nobody":
            pieces = {}
        if self.wrong == "count":
            pieces["extra"] = pieces["c0"][:0]
        return pieces


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("twice", "expected every row at one client, got train row 1 2 times"),
        ("left", "expected every train row at a client, got row 0 at none"),
        ("beyond", "expected positions below 8, got "),
        ("empty", "expected train rows for every client, got none for 'c1'; lower clients"),
        ("names", "expected the same clients in every split, got others in test"),
        ("count", "expected 2 clients as asked, got 3"),
        ("nobody", "expected clients, got none"),
    ],
)
def test_a_users_partition_is_held_to_the_laws(wrong, said):
    splits = {"train": rows("a" * 8), "test": rows("a" * 4, "test")}
    deal_splits(Mine(), splits, 2, 0)
    with pytest.raises(ConfigError) as e:
        deal_splits(Mine(wrong), splits, 2, 0)
    assert said in str(e.value)


def test_a_users_partition_has_a_minimum_too():
    with pytest.raises(
        ConfigError, match=r"min_rows: expected 5 train rows for every client, got 4 for 'c0'; lower it or clients"
    ):
        deal_splits(Mine(min_rows=5), {"train": rows("a" * 8)}, 2, 0)
