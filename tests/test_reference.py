"""The reference of all keys: what is committed is what the code says, and the schema takes and refuses what the config does."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from flexray import folder, reference
from flexray.cli import app
from flexray.config import Experiment
from flexray.schema import Schema

ROOT = Path(__file__).parent.parent
RECIPES = ("tiny.yaml", "quality_base.yaml")
"""These are for `flexray pretrain`."""
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.name not in RECIPES]


@pytest.fixture(scope="module")
def printed():
    return {flags: CliRunner().invoke(app, ["schema", *flags]).stdout for flags in ((), ("--markdown",))}


@pytest.fixture(scope="module")
def schema(printed):
    made = json.loads(printed[()])
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def test_what_is_committed_is_what_the_code_says(printed):
    for flags, file in (((), "config.schema.json"), (("--markdown",), "configuration.md")):
        assert (ROOT / "docs" / file).read_text() == printed[flags], f"docs/{file} is old: run `make docs`"


def test_every_key_is_on_the_page(printed):
    page = printed[("--markdown",)]
    for name in folder.listing("algorithms"):
        assert f"`algorithm.name: {name}`" in page
    for key in Schema(Experiment, {}).dotted():
        assert f"`{key.rpartition('.')[2]}`" in page or f"`{key}`" in page, key
    assert "| `lr` | number, > 0 | `0.003` |" in page


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_is_taken(schema, path):
    values = yaml.safe_load(path.read_text())
    assert not [e.message for e in schema.iter_errors(values)]


def test_the_defaults_are_taken(schema):
    spec = Experiment().spec()
    del spec["plugins"]
    assert not [e.message for e in schema.iter_errors(json.loads(json.dumps(spec)))]


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": {"learning_rate": 1}}, {"rounds": 0}, {"rounds": "ten"}, {"algorithm": "flexx"}, {"train": {"lr": 0}},
        {"algorithm": {"name": "fedprox", "nu": 1}}, {"algorithm": {"gate": {"mode": "up"}}}, {"seats": "many"},
        {"data": {"partition": {"name": "dirichlet", "alfa": 1}}}, {"sweep": {"ower": {}}}, {"evaluation": {"metrics": "loss"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_config_refuses_the_schema_refuses(schema, wrong):
    assert list(schema.iter_errors(wrong))


@pytest.mark.parametrize(
    "right",
    [
        {"algorithm": {"name": "./mine.py", "weight": 1}}, {"algorithm": "./mine.py"}, {"algorithm": {"gate": {"mode": "mix"}}},
        {"algorithm": {"name": "fedprox", "mu": 0.1}}, {"seats": 4}, {"cohort": 0.5}, {"data": {"partition": "iid"}}, {},
        {"sweep": {"over": {"train.lr": [1, 2], "seed": {"grid": [0]}}}}, {"compare": {"methods": {"a": "flex"}, "seeds": [0]}},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_config_takes_the_schema_takes(schema, right):
    assert not [e.message for e in schema.iter_errors(right)]


def test_bounds_and_choices_cross_over():
    made = reference.json_schema({})["properties"]
    assert made["train"]["properties"]["lr"] == {"type": "number", "exclusiveMinimum": 0.0, "default": 0.003}
    assert made["resources"]["properties"]["backend"] == {"enum": ["ray", "inline"], "default": "ray"}
