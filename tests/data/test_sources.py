"""What data.path may mean, how splits are told, and what is said when it means nothing."""

import json

import pytest

from flexray.data.options import Data
from flexray.data.partitions.iid import Iid
from flexray.data.sources import find, split_of
from flexray.errors import ConfigError


def lines(path, *outputs):
    path.write_text("".join(json.dumps({"instruction": "q", "output": o}) + "\n" for o in outputs))
    return path


def source(path, **kwargs):
    return find(Data(Iid(), str(path), **kwargs), seed=0, clients=2)


def outputs(found) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for piece in found.pieces:
        rows.setdefault(piece.split, []).extend(values["output"] for _, values in piece.read())
    return rows


def refused(path, **kwargs) -> str:
    with pytest.raises(ConfigError) as e:
        source(path, **kwargs)
    return str(e.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("dolly_train", "train"),
        ("train-00000-of-00001", "train"),
        ("TestSet", "test"),
        ("sgd_dev", "valid"),
        ("validation", "valid"),
        ("train_valid", "valid"),
        ("latest", None),
        ("contest_trainer", None),
        ("data", None),
    ],
)
def test_the_split_is_told_by_whole_words(name, split):
    assert split_of(name) == split


def test_one_file_is_train(tmp_path):
    assert outputs(source(lines(tmp_path / "test.jsonl", "a"))) == {"train": ["a"]}


def test_a_folder_tells_splits_by_names(tmp_path):
    lines(tmp_path / "a_train.jsonl", "1")
    lines(tmp_path / "b-train.jsonl", "2")
    lines(tmp_path / "dev.jsonl", "3")
    lines(tmp_path / "a_test.jsonl", "4")
    lines(tmp_path / "index.jsonl", "5")
    found = source(tmp_path)
    assert outputs(found) == {"train": ["1", "2"], "valid": ["3"], "test": ["4"]}
    assert found.left_aside == ("index.jsonl",)
    assert [p.stem for p in found.pieces] == ["a", "a", "b", "dev"]


def test_a_folder_of_unnamed_files_is_train_all_of_it(tmp_path):
    lines(tmp_path / "math.jsonl", "1")
    lines(tmp_path / "code.jsonl", "2")
    assert outputs(source(tmp_path)) == {"train": ["2", "1"]}
    lines(tmp_path / "math_test.jsonl", "3")
    assert outputs(source(tmp_path)) == {"train": ["2", "1"], "test": ["3"]}


def test_a_folder_without_train_rows_is_refused(tmp_path):
    lines(tmp_path / "a_test.jsonl", "1")
    assert "expected a file with `train` in its name, got a_test.jsonl" in refused(tmp_path)


def test_a_folder_without_data_names_the_folders_in_it(tmp_path):
    (tmp_path / "dolly").mkdir()
    assert "choose one of its folders: dolly" in refused(tmp_path)
    assert "put some there" in refused(tmp_path / "dolly")


def test_a_mistyped_path_is_told_from_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "dolly").mkdir()
    lines(tmp_path / "dolly" / "dolly_train.jsonl", "1")
    monkeypatch.chdir(tmp_path)
    assert "has no 'doly'; did you mean 'dolly'?" in refused(tmp_path / "doly" / "x" / "dolly_train.jsonl")
    assert "did you mean 'dolly_train.jsonl'?" in refused("dolly/dolly_trian.jsonl")
    assert "did you mean 'dolly_train.jsonl'?" in refused("dolly/dolly_trian")
    assert "did you mean 'dolly'?" in refused("./doly")
    assert "did you mean 'dolly'?" in refused("doly")
    assert "did you mean 'builtin'?" in refused("buildin")
    assert "check the path" in refused("nothing.csv")


def test_other_kinds_of_files_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    assert "ending in .jsonl, .json, .csv, .parquet, got 'x.txt'" in refused(tmp_path / "x.txt")


def test_a_subset_is_for_the_hub_only(tmp_path):
    assert refused(lines(tmp_path / "x.jsonl", "1"), subset="main").startswith("data.subset: expected none")


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path):
    a, b = lines(tmp_path / "a.jsonl", "1"), lines(tmp_path / "b.jsonl", "1")
    assert source(a).fingerprint == source(b).fingerprint
    assert source(lines(b, "2")).fingerprint != source(a).fingerprint


def test_builtin_depends_on_seed_and_clients():
    def prints(seed, clients):
        return find(Data(Iid()), seed, clients).fingerprint

    assert prints(0, 2) == prints(0, 2)
    assert len({prints(0, 2), prints(1, 2), prints(0, 3)}) == 3
    assert set(outputs(find(Data(Iid()), 0, 2))) == {"train", "valid", "test"}


def test_saved_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"output": datasets.Value("string"), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    one = datasets.Dataset.from_dict({"output": ["a", "b"], "kind": [1, 0]}, features=features)
    one.save_to_disk(str(tmp_path / "one"))
    (piece,) = source(tmp_path / "one").pieces
    assert [values for _, values in piece.read()] == [{"output": "a", "kind": "dog"}, {"output": "b", "kind": "cat"}]
    assert [where for where, _ in piece.read()] == ["one train, row 1", "one train, row 2"]

    several = datasets.DatasetDict({"train": one, "validation": one.select([0]), "test_sft": one.select([1]), "extra": one})
    several.save_to_disk(str(tmp_path / "several"))
    found = source(tmp_path / "several")
    assert outputs(found) == {"train": ["a", "b"], "valid": ["a"], "test": ["b"]}
    assert found.left_aside == ("extra",)


def test_a_broken_saved_folder_is_refused(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{")
    assert refused(tmp_path).startswith("data.path: expected a folder saved by datasets")


def test_a_hub_id_goes_to_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"output": ["a"]})
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or datasets.DatasetDict({"train": one}))
    assert outputs(source("owner/name-v1.0", subset="main")) == {"train": ["a"]}
    assert asked == [("owner/name-v1.0", "main")]


def test_a_hub_that_cannot_be_reached_is_said_with_the_mend(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*_):
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = refused("owner/name")
    assert message.startswith("data.path: expected builtin, a file, a folder or a data set of the hub, got 'owner/name'")
    assert "(Couldn't reach the Hub); check the id" in message and "give a path" in message
