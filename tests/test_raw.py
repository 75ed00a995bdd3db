"""YAML as people mean it, and overrides laid over it."""

import pytest

from flexray import raw
from flexray.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def read(text: str, *sets: str):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        return raw.read(file, sets)

    return read


def test_off_no_and_dates_are_text_and_true_is_true(read):
    assert read("{a: off, b: no, c: Yes, d: true, e: False, f: 2020-01-01, g: ~, h: 3}") == {
        "a": "off", "b": "no", "c": "Yes", "d": True, "e": False, "f": "2020-01-01", "g": None, "h": 3,
    }  # fmt: skip


def test_an_empty_file_is_no_values(read):
    assert read("# nothing yet\n") == {}


@pytest.mark.parametrize(
    ("sets", "values"),
    [
        (("a.b.c=1",), {"a": {"b": {"c": 1}}}),
        (("a.b=1", "a.c=x", "a.b=2"), {"a": {"b": 2, "c": "x"}}),
        (("a=[1, two]",), {"a": [1, "two"]}),
        (("a={b: {c: 3}}", "a.b.d=4"), {"a": {"b": {"c": 3, "d": 4}}}),
        (("a=",), {"a": None}),
        (("a=b=c",), {"a": "b=c"}),
        (("algorithm=fedprox", "algorithm.mu=1"), {"algorithm": {"name": "fedprox", "mu": 1}}),
        (("data.partition=iid", "data.partition.x=1"), {"data": {"partition": {"name": "iid", "x": 1}}}),
    ],
)
def test_overrides(sets, values):
    assert raw.read(None, sets) == values


def test_an_override_goes_into_an_empty_section_and_leaves_the_rest(read):
    assert read("train:\nrounds: 3\nmodel: {path: x, dtype: y}", "train.lr=1", "model.path=z") == {
        "train": {"lr": 1}, "rounds": 3, "model": {"path": "z", "dtype": "y"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "--set: expected dotted.key=value, got 'nonsense'; write for example --set train.lr=0.001"),
        ("=3", "--set: expected dotted.key=value, got '=3'; write for example --set train.lr=0.001"),
        ("a.b=1", "a.b: expected a section at 'a', got 5; drop one of the two"),
        ("c=[1", "c: expected a YAML value, got '[1' (expected ',' or ']', but got '<stream end>' in line 1); quote it"),
    ],
)
def test_wrong_overrides(text, message):
    with pytest.raises(ConfigError) as e:
        raw.read(None, ("a=5", text))
    assert e.value.problems == (message,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "expected keys and values in .*, got list; write `rounds: 10`"),
        (
            "rounds: [1\n",
            "expected YAML, got something else in .*: expected ',' or ']', but got '<stream end>' in line 2; mend the file",
        ),
        ("rounds: 1\nrounds: 2\n", "expected YAML, got something else in .*: the key 'rounds' is there twice in line 2; mend"),
    ],
)
def test_files_that_are_no_config(read, text, message):
    with pytest.raises(ConfigError, match=f"config: {message}"):
        read(text)


def test_a_file_that_is_not_there_names_the_one_that_was_meant(tmp_path):
    (tmp_path / "dolly.yaml").touch()
    with pytest.raises(ConfigError, match=r"config: expected a readable file, got .*doly.yaml.*; did you mean 'dolly.yaml'\?"):
        raw.read(tmp_path / "doly.yaml")
    with pytest.raises(ConfigError, match="check the path"):
        raw.read(tmp_path / "nowhere" / "c.yaml")


def test_merges_of_merges_of_merges():
    """Twelve lines that stand for nine to the twelfth keys."""
    lines = ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 13))]
    with pytest.raises(ConfigError, match="more than 100,000 keys by `<<`"):
        raw.override({}, "train={" + ", ".join(lines) + "}")
