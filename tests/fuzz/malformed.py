"""Malformed configs, made of a good one and the schema: keys misspelt, dropped, moved, and values of every wrong kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from hypothesis import strategies as st

from flexray import folder
from flexray.config import Experiment
from flexray.schema import FOLDERS, Schema

SHARP = (
    None, True, False, 0, -1, 1, 2, 3, 0.5, -0.0, 1e-320, 1e308, -1e308, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, -(10**400),
    float("nan"), float("inf"), float("-inf"), "", " ", "\t", "nan", "-inf", "1e999", "1e400", "0x10", "1_000", "1:30",
    "~", "null", "yes",
    "off", "auto", "all", "none", "true", "1", "-1", "0.5", "½", "٣", "١e٣", "\ud800", "\x00", "\x7f", "a\nb", "a\r\nb",
    "\u2028", "\u202e", "é" * 70,
    "🦜", "../..", "/", "/dev/null", "~root", "no/such/place.py", "mine.py", ".py", "x" * 10_000, "[bold]", "{}", "%s",
    "$HOME", "a.b.c", "..", ".",
    "lora", "flex", "fedavg", "dirichlet", "loss", b"", b"\xff\x00", [], [[]], [None], [1, "a", None], [{}], ["loss",
    "loss"], ["", ""], ["q", 1], {}, {"": 1},
    {"name": None}, {"name": []}, {"name": "flex"}, {"name": "fedprox", "mu": "x"}, {"name": "flex", "name ": 1},
    {None: 1}, {1: 2}, {True: False}, {2.5: []},
    {("a", "b"): 1}, {"a": {"b": {"c": {"d": {}}}}}, {"self": None}, {"values": 1}, {"__class__": "x"}, {"spec": 1},
    {"a\nb: c": 1},
    {f"k{i}": i for i in range(60)}, list(range(300)),
)  # fmt: skip
"""Values that something is known to trip over."""

SCALARS = st.one_of(
    st.sampled_from(SHARP),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=6),
    st.dates(),
)
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(("name", "lr", "rounds", "a.b", "plugins")), st.integers(), st.none())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)

Values = dict[Any, Any]


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all keys and list entries."""
    inner = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def keys_of_schema() -> tuple[str, ...]:
    """Every dotted key there is: whichever method and partition is chosen."""
    chosen = {section: folder.load(kind, next(iter(folder.listing(kind))), section) for section, kind in FOLDERS.items()}
    schema = Schema(Experiment, chosen)
    return tuple(sorted({*schema.dotted(), *schema.elsewhere, "plugins"}))


def _put(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The values with one of them replaced; sections are made on the way."""
    if not path:
        return value
    if isinstance(values, list) and isinstance(path[0], int) and path[0] < len(values):
        return [*values[: path[0]], _put(values[path[0]], path[1:], value), *values[path[0] + 1 :]]
    below = values if isinstance(values, Mapping) else {}
    return {**below, path[0]: _put(below.get(path[0]), path[1:], value)}


def _take(values: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """The values without one of them, and it."""
    if isinstance(values, list):
        if len(path) == 1:
            return [v for i, v in enumerate(values) if i != path[0]], values[path[0]]
        inner, taken = _take(values[path[0]], path[1:])
        return _put(values, path[:1], inner), taken
    if len(path) == 1:
        return {k: v for k, v in values.items() if k != path[0]}, values[path[0]]
    inner, taken = _take(values[path[0]], path[1:])
    return {**values, path[0]: inner}, taken


def _misspelt(draw: Callable[[Any], Any], key: str) -> str:
    at = draw(st.integers(0, max(0, len(key) - 1)))
    made = {
        "drop": key[:at] + key[at + 1 :],
        "double": key[: at + 1] + key[at:],
        "swap": key[:at] + key[at : at + 2][::-1] + key[at + 2 :],
        "case": key.upper(),
        "dash": key.replace("_", "-"),
        "blank": f" {key}",
        "odd": key[:at] + draw(st.characters()) + key[at:],
    }
    return made[draw(st.sampled_from(sorted(made)))]


def _one_change(draw: Callable[[Any], Any], values: Values, known: tuple[str, ...]) -> Any:
    how = draw(
        st.sampled_from(("value", "value", "value", "schema", "schema", "schema", "drop", "misspell", "move", "extra", "wrap"))
    )
    if how == "schema":
        return _put(values, tuple(draw(st.sampled_from(known)).split(".")), draw(VALUES))
    if how == "extra" or not (there := sorted(places(values), key=repr)):
        return _put(values, (draw(KEYS),), draw(VALUES))
    path = draw(st.sampled_from(there))
    if how == "value":
        return _put(values, path, draw(VALUES))
    rest, taken = _take(values, path)
    if how == "drop":
        return rest
    if how == "misspell" and isinstance(path[-1], str):
        return _put(rest, (*path[:-1], _misspelt(draw, path[-1])), taken)
    if how == "wrap":
        return _put(values, path, draw(st.sampled_from(([taken], {"value": taken}, {path[-1]: taken}, str(taken)))))
    return _put(rest, tuple(draw(st.sampled_from(known)).split(".")), taken)


@st.composite
def changed(draw: Any, good: Values, known: tuple[str, ...]) -> Any:
    """One to four changes of a good config."""
    values: Any = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 4))):
        values = _one_change(draw, values if isinstance(values, dict) else {}, known)
    return values


class _Dumper(yaml.SafeDumper):
    """Writes also what no config should hold."""


_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(value))


def text_of(values: Any) -> str:
    """The values as YAML."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


LAUGHS = "a: &a [lol, lol]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A few hundred bytes that stand for nine to the eighth words."""
ODDITIES = (
    "", "\n", "#", "---", "---\n---\n", "--- a\n--- b\n", "...", "5", "text", "[]", "[1, 2]", "null", "true",
    "!!binary aGk=", "!!set {a}", "!!omap [a: 1]",
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!mine x", "!!int x", "!!float abc",
    "!!timestamp 2020-99-99", "!!bool maybe",
    "rounds: 1\nrounds: 2", "train: {lr: 1, lr: 2}", "rounds:\t3", "\trounds: 3", "train:\n\tlr: 1",
    "train:\n  lr: 1\n seed: 2", "rounds 3", "rounds: 3: 4",
    "'rounds", '"\\x"', '"\\ud800": 1', "rounds: &a 3\nseed: *a", "seed: *nowhere", "train: &t\n  <<: *t",
    "<<: {rounds: 3}", "<<: 5", "<<: [1]", "a: &a [*a]", "&a {train: *a}",
    "train: &a {lr: *a}", "{[1]: 2}", "{{a: 1}: 2}", "? [a]\n: 1", "? |\n  rounds\n: 3", "1: 2", "null: 3", "~: 3",
    "true: 1", "2.5: 1", ".nan: 1", "%YAML 9.9\n---\nrounds: 3",
    "%TAG ! x\n---\na: 1", "\ufeffrounds: 3", "rounds: 3\x00", "rounds: \x07", "\x85", "rounds: 3\r\nseed: 1\r",
    "rounds: !!int '3'", "rounds: 0b11", "rounds: 0o7", "rounds: 1:30",
    "rounds: 1e3", "rounds: .inf", "seed: .nan", "rounds: ٣", "a: " * 400, "[" * 900, "{" * 900, "{a: " * 900, "- " * 900,
    "a:\n" * 3, LAUGHS, "train: " + LAUGHS.replace("\n", "\n "),
    LAUGHS + "evaluation: {metrics: *i}", LAUGHS + "data: {keep: {x: *i}}", LAUGHS + "train: {lr: *i}",
    LAUGHS + "algorithm: *i", LAUGHS + "plugins: *i", "rounds: " + "9" * 5000, "seed: -" + "9" * 5000,
    "train: {lr: " + "9" * 5000 + "}", "data: {path: !!binary '!'}", "data: {keep: {? [1] : [a]}}",
    "algorithm: {name: flex, ? [1] : 2}", "a" * 100_000, "? " + "a" * 2000, "#\x0b", "rounds: 3 # \ud7ff",
)  # fmt: skip
"""Texts that are YAML at its odd ends, or none at all."""


def spoilt(good: str) -> st.SearchStrategy[str]:
    """A good text with a hole, a doubled line, or odd characters in it."""
    ends = st.integers(0, len(good))
    lines = good.splitlines(keepends=True)
    number = st.integers(0, len(lines) - 1)
    odd = st.sampled_from(
        (
            "\t",
            "\x00",
            "\ufeff",
            ":",
            "- ",
            "[",
            "{",
            "&a ",
            "*a ",
            "'",
            '"',
            "#",
            "%",
            "@",
            "`",
            "!",
            "|",
            "\u2028",
            "? ",
            "<<: ",
        )
    )
    return st.one_of(
        st.sampled_from(ODDITIES),
        ends.map(lambda i: good[:i]),
        st.builds(lambda i, c: good[:i] + c + good[i:], ends, odd),
        st.builds(lambda i, j: good[: min(i, j)] + good[max(i, j) :], ends, ends),
        number.map(lambda i: "".join([*lines[: i + 1], lines[i], *lines[i + 1 :]])),
        st.builds(lambda i, j: "".join([*lines[:i], " " * j, *lines[i:]]), number, st.integers(1, 5)),
    )


def sets(known: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    """What may be typed behind `--set`."""
    odd = st.sampled_from(
        (
            "",
            "=",
            "==",
            "a",
            ".=1",
            "..=",
            "a.=1",
            ".a=1",
            "rounds",
            "rounds=[",
            "=3",
            "rounds=&a *a",
            "a.b.c.d=1",
            "train.lr.x=1",
            "plugins.x=1",
            "rounds.1=2",
            "tracking.0=x",
            "seed=\x00",
            "\ud800=1",
        )
    )
    keys = st.one_of(st.sampled_from(known), st.text(max_size=10), st.sampled_from(known).map(lambda k: f"{k}.x"))
    values = st.one_of(SCALARS.map(str), st.sampled_from(ODDITIES), VALUES.map(lambda v: text_of(v).strip()))
    return st.lists(st.one_of(odd, st.builds(lambda k, v: f"{k}={v}", keys, values)), min_size=1, max_size=3).map(tuple)
