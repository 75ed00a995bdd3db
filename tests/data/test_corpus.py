"""The corpus file: made once, told apart by all it depends on, and read without a copy or a heavy import."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexray.data import tokenise as tokenising
from flexray.data.corpus import Corpus
from flexray.data.options import Columns, Data
from flexray.data.partitions.iid import Iid
from flexray.data.sources import find
from flexray.data.tokenise import build
from flexray.errors import ConfigError
from tests.data.bytes_encoder import Bytes, text


class Counting(Bytes):
    def __init__(self):
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        return super().encode(texts)


@pytest.fixture
def data(tmp_path) -> Data:
    path = tmp_path / "x.jsonl"
    rows = [
        {"instruction": f"q{i}", "output": "" if i == 2 else f"a{i}", "kind": "ab"[i % 2], "n": i or None} for i in range(5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(Iid(), str(path), columns=Columns(label="kind"), prompt="chat")


def make(data, cache, encoder=None):
    return build(data, find(data, 0, 2), encoder or Bytes(), cache)


def content(corpus):
    return [(text(t), start) for t, start in corpus.rows(range(len(corpus)))]


EXPECTED = [(f"<user>q{i}<model>a{i}§", 15) if i != 2 else ("", 0) for i in range(5)]


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_rows_come_back_whatever_the_batches(data, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(tokenising, "BATCH_ROWS", batch)
    corpus = Corpus(make(data, tmp_path / "cache"))
    assert content(corpus) == EXPECTED
    assert [text(t) for t, _ in corpus.rows(np.array([3, 0, 3]))] == [EXPECTED[i][0] for i in (3, 0, 3)]
    assert corpus.lengths.tolist() == [18, 18, 0, 18, 18]
    assert corpus.labels.tolist() == list("ababa")
    assert set(corpus.splits) == {"train"}
    assert corpus.column("n").tolist() == [None, "1", "2", "3", "4"]
    assert corpus.columns == ("kind", "n")


def test_rows_are_views_of_the_file(data, tmp_path):
    corpus = Corpus(make(data, tmp_path))
    (a, _), (b, _) = corpus.rows([1, 1])
    assert a.dtype == np.int32 and np.shares_memory(a, b)
    assert not a.flags.writeable and not a.flags.owndata


def test_it_is_made_once(data, tmp_path):
    encoder = Counting()
    paths = {make(data, tmp_path / "cache", encoder) for _ in range(3)}
    assert len(paths) == 1 and encoder.calls == 2


def test_many_may_ask_at_once(data, tmp_path):
    encoder = Counting()
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: make(data, tmp_path / "cache", encoder), range(8)))
    assert len(paths) == 1 and encoder.calls == 2
    assert content(Corpus(paths.pop())) == EXPECTED


def test_it_is_told_apart_by_all_it_depends_on(data, tmp_path):
    class Other(Bytes):
        fingerprint = "other"

    rows = [json.loads(line) for line in Path(data.path).read_text().splitlines()]
    other = tmp_path / "y.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    variants = [
        make(data, tmp_path),
        make(data, tmp_path, Other()),
        make(replace(data, max_length=100), tmp_path),
        make(replace(data, prompt="alpaca"), tmp_path),
        make(replace(data, keep={"kind": ["a"]}), tmp_path),
        make(replace(data, columns=Columns()), tmp_path),
        make(replace(data, path=str(other)), tmp_path),
    ]
    assert len(set(variants)) == len(variants)
    assert len({Corpus(path).fingerprint for path in variants}) == len(variants)
    assert make(replace(data, max_test_rows=1, test_fraction=0.3), tmp_path) == variants[0]


def test_nothing_is_left_of_a_failure(data, tmp_path):
    with pytest.raises(ConfigError):
        make(replace(data, columns=Columns(output="nothing")), tmp_path / "cache")

    class Failing(Bytes):
        def encode(self, texts):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        make(data, tmp_path / "cache", Failing())
    assert [f.suffix for f in (tmp_path / "cache" / "corpus").iterdir() if f.suffix != ".lock"] == []


def test_a_source_may_have_columns_named_as_ours(data, tmp_path):
    path = tmp_path / "z.jsonl"
    path.write_text(json.dumps({"instruction": "q", "output": "a", "split": "s", "tokens": "t", "label": "l"}) + "\n")
    corpus = Corpus(make(Data(Iid(), str(path)), tmp_path))
    assert [corpus.column(c).tolist() for c in ("split", "tokens", "label")] == [["s"], ["t"], ["l"]]
    assert (corpus.splits.tolist(), corpus.labels.tolist()) == (["train"], [""])


def test_it_pickles_as_its_path(data, tmp_path):
    corpus = Corpus(make(data, tmp_path))
    assert len(pickle.dumps(corpus)) < 500
    assert content(pickle.loads(pickle.dumps(corpus))) == EXPECTED


def test_reading_imports_pyarrow_and_nothing_heavier(data, tmp_path):
    code = (
        "import sys; from flexray.data.clients import order; from flexray.data.corpus import Corpus\n"
        f"c = Corpus({str(make(data, tmp_path))!r}); assert len(c.rows(range(5))) == 5; c.lengths; c.labels\n"
        "print([m for m in ('pandas', 'datasets', 'torch', 'transformers', 'pyarrow.parquet', 'filelock') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[]"
