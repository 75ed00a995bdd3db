"""No config, however malformed, meets a traceback: it is refused in the house's words, or taken and given back as it was."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flexray import config
from flexray.cli import app
from flexray.comparison import spec as comparing
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sweeping import spec as sweeping
from tests.fuzz.malformed import LAUGHS, ODDITIES, changed, keys_of_schema, sets, spoilt, text_of

GOOD = {k: v for k, v in Experiment(rounds=3, train={"schedule": "constant"}).spec().items() if k != "plugins"}
SWEEP = {
    "rounds": 2,
    "algorithm": {"name": "fedprox", "mu": 0.1},
    "sweep": {
        "over": {"train.lr": [0.001, 0.01], "seed": [0, 1], "algorithm": {"mu": {"loguniform": [0.01, 1]}},
            "train.batch": {"randint": [1, 9]}},
        "samples": 2, "stop": {"name": "asha", "grace": 1}, "budget": {"trials": 5, "minutes": 3}, "cpus": "auto",
        "refused": "skip",
    },
}  # fmt: skip
COMPARE = {
    "rounds": 2,
    "train": {"lr": 0.01},
    "compare": {
        "methods": {"a": "fedavg", "b": {"algorithm": {"name": "flex", "lora": {"rank": 4}}, "train.lr": 0.02}},
        "seeds": [0, 1], "reference": "a", "metrics": ["loss"], "over": ["clients"], "alpha": 0.05, "resamples": 500,
    },
}  # fmt: skip
KNOWN = keys_of_schema()
SWEEPS = (
    *KNOWN,
    *(
        f"sweep.{k}"
        for k in (
            "over",
            "over.x",
            "metric",
            "search",
            "samples",
            "stop.name",
            "stop.factor",
            "budget.trials",
            "cpus",
            "jobs",
            "seed",
            "x",
        )
    ),
)
COMPARES = (
    *KNOWN,
    *(
        f"compare.{k}"
        for k in (
            "methods",
            "methods.a",
            "methods.a.train.lr",
            "seeds",
            "reference",
            "metrics",
            "view",
            "alpha",
            "resamples",
            "over",
            "x",
        )
    ),
)

PROBLEM = re.compile(r"[^\n]+: expected [^\n]+, got [^\n]*; [^\n]+|and \d+ more")
"""`<dotted key>: expected …, got …; <mend>`, on one line; of a sweep's problems the first ones."""
LONGEST = 2000


def survives(x: Experiment) -> None:
    again = Experiment(**yaml.safe_load(yaml.safe_dump(x.spec())))
    assert again == x or repr(again) == repr(x)


def survives_whole(spec: Any, read: Callable[[Any], Any]) -> None:
    told = spec.dump()
    assert yaml.safe_load(yaml.safe_dump(read(yaml.safe_load(yaml.safe_dump(told))).dump())) == yaml.safe_load(
        yaml.safe_dump(told)
    )


def refused_or(do: Callable[[], Any], then: Callable[[Any], None]) -> None:
    try:
        made = do()
    except ConfigError as e:
        assert e.problems
        for problem in e.problems:
            assert PROBLEM.fullmatch(problem), problem
            assert len(problem) < LONGEST, problem
    else:
        then(made)


def many(default: int) -> Callable[[Any], Any]:
    """The same examples each time."""
    return settings(
        max_examples=default,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


KINDS = {
    "experiment": (GOOD, KNOWN, config.load, survives),
    "sweep": (SWEEP, SWEEPS, sweeping.load, lambda s: survives_whole(s, sweeping.read)),
    "compare": (COMPARE, COMPARES, comparing.load, lambda s: survives_whole(s, comparing.read)),
}


def check_values(kind: str, path: Path, examples: int) -> None:
    good, known, load, then = KINDS[kind]

    @many(examples)
    @given(changed(good, known))
    def holds(values: Any) -> None:
        try:
            text = text_of(values).encode()
        except UnicodeEncodeError:
            return  # half a surrogate pair: no file can hold it
        path.write_bytes(text)
        refused_or(lambda: load(path), then)

    holds()


def check_texts(kind: str, path: Path, examples: int) -> None:
    good, _, load, then = KINDS[kind]

    @many(examples)
    @given(spoilt(text_of(good)), st.sampled_from(("utf-8", "utf-8", "utf-8", "latin-1", "utf-16")))
    def holds(text: str, encoding: str) -> None:
        path.write_bytes(text.encode(encoding, "replace"))
        refused_or(lambda: load(path), then)

    holds()


def check_sets(kind: str, path: Path, examples: int) -> None:
    good, known, load, then = KINDS[kind]
    path.write_text(text_of(good))

    @many(examples)
    @given(sets(known))
    def holds(given: tuple[str, ...]) -> None:
        refused_or(lambda: load(path, given), then)

    holds()


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_configs_are_refused_in_our_words(kind, tmp_path):
    check_values(kind, tmp_path / "x.yaml", 50)
    check_texts(kind, tmp_path / "x.yaml", 40)
    check_sets(kind, tmp_path / "x.yaml", 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_malformed_configs_are_refused_in_our_words(kind, tmp_path):
    """3,000 of each kind."""
    check_values(kind, tmp_path / "x.yaml", 1500)
    check_texts(kind, tmp_path / "x.yaml", 750)
    check_sets(kind, tmp_path / "x.yaml", 750)


def test_yaml_at_its_odd_ends(tmp_path):
    file = tmp_path / "x.yaml"
    for text in ODDITIES:
        file.write_bytes(text.encode())
        started = perf_counter()
        refused_or(lambda: config.load(file), survives)
        assert perf_counter() - started < 5


def test_aliases_do_not_multiply(tmp_path):
    """Nine to the eighth of two words."""
    file = tmp_path / "x.yaml"
    file.write_text(LAUGHS)
    with pytest.raises(ConfigError, match="aliases that stand for more than 100,000 values; mend the file"):
        config.load(file)
    file.write_text("train: &a {lr: *a}")
    with pytest.raises(ConfigError, match="an alias that stands within what it names"):
        config.load(file)
    file.write_text("train: {lr: 0.01, steps: &n 3}\nrounds: *n\nclients: *n\n")
    assert config.load(file).clients == 3


SCREEN = 24
COMMANDS = {"experiment": ("plan", "simulate", "partition"), "sweep": ("sweep",), "compare": ("compare",)}


def text_or_none(values: Any) -> str | None:
    try:
        text_of(values).encode()
    except UnicodeEncodeError:
        return None
    return text_of(values)


def check_screens(kind: str, tmp_path: Path, examples: int) -> None:
    """Of what is refused, what the command line says of it: at most a screen, and nothing is written."""
    good, known, load, _ = KINDS[kind]
    file, before = tmp_path / "x.yaml", sorted(os.listdir())
    texts = st.one_of(changed(good, known).map(text_or_none), spoilt(text_of(good)))

    @many(examples)
    @given(texts, st.one_of(st.just(()), sets(known)), st.sampled_from(COMMANDS[kind]))
    def holds(text: str | None, overrides: tuple[str, ...], command: str) -> None:
        file.write_bytes((text or "").encode("utf-8", "replace"))
        with suppress(ConfigError):
            load(file, overrides)
            return
        out = ("--out", str(tmp_path / "out.png")) if command != "plan" else ("--no-measure",)
        result = CliRunner().invoke(app, [command, str(file), *out, *(part for text in overrides for part in ("--set", text))])
        rows = sum(ceil(max(1, len(line)) / 80) for line in result.stderr.splitlines())
        assert result.exit_code == 2 and rows <= SCREEN and "Traceback" not in result.stderr, (result.stderr, result.exception)
        assert result.stderr.startswith("Wrong input:") and not result.stdout.strip()
        assert sorted(os.listdir(tmp_path)) == ["x.yaml"] and sorted(os.listdir()) == before

    holds()


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_says_it_on_one_screen_and_writes_nothing(kind, tmp_path):
    check_screens(kind, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_says_much_on_one_screen_and_writes_nothing(kind, tmp_path):
    check_screens(kind, tmp_path, 250)


def test_of_many_problems_the_first_are_shown(tmp_path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({f"key{i}": i for i in range(100)}))
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "x.yaml")])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) <= SCREEN
    assert re.search(r"and \d+ more$", result.stderr.strip())
