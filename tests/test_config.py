"""The experiment: what is accepted, what is refused and in which words."""

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

from flexray import config, folder
from flexray.algorithm import Gate, Graft, Lora
from flexray.algorithms.flex import Flex
from flexray.config import Experiment, Train, load
from flexray.errors import ConfigError
from flexray.findings import wanted
from flexray.schema import Key


def problems(*sets: str) -> list[str]:
    with pytest.raises(ConfigError) as e:
        load(None, sets)
    return list(e.value.problems)


UNKNOWN = "expected a known key, got an unknown one"
COUNT = "expected a whole number of at least 1"
WRONG = {
    # beyond all machines
    "resources.threads=100000": "resources.threads: expected at most 1,024, got 100000; lower it",
    "train.batch=100000000": "train.batch: expected at most 100,000, got 100000000; lower it",
    "evaluation.inside_rows=10000000": "evaluation.inside_rows: expected at most 10,000, got 10000000; lower it",
    "clients=10000000": "clients: expected at most 100,000 of the built-in corpus, got 10000000; lower it",
    # keys
    "rouds=3": f"rouds: {UNKNOWN}; did you mean 'rounds'?",
    "lr=0.1": f"lr: {UNKNOWN}; did you mean 'train.lr'?",
    "learning_rate=0.1": f"learning_rate: {UNKNOWN}; did you mean 'train.lr'?",
    "rank=4": f"rank: {UNKNOWN}; did you mean 'algorithm.lora.rank' or 'algorithm.graft.rank'?",
    "alpha=1": f"alpha: {UNKNOWN}; did you mean 'algorithm.lora.alpha' or 'algorithm.graft.alpha'?",
    "train.stps=1": f"train.stps: {UNKNOWN}; did you mean 'train.steps'?",
    "algorithm.lora.rnk=2": f"algorithm.lora.rnk: {UNKNOWN}; did you mean 'algorithm.lora.rank'?",
    "algorithm.mu=3": f"algorithm.mu: {UNKNOWN}; it belongs to fedprox: set algorithm.name, or drop it",
    "data.partition.alpha=1": f"data.partition.alpha: {UNKNOWN}; it belongs to dirichlet or dirichlet_sizes: "
    "set data.partition.name, or drop it",
    "evaluation.zzz=1": f"evaluation.zzz: {UNKNOWN}; choose one of: every, clients, last, metrics, split, when, batch, "
    "max_new_tokens, generate_rows, probe, probe_rows, inside_rows",
    # types
    "rounds=true": f"rounds: {COUNT}, got true; the default is 10",
    "rounds=ten": f"rounds: {COUNT}, got 'ten'; the default is 10",
    "rounds=2.5": f"rounds: {COUNT}, got 2.5; the default is 10",
    "rounds=": f"rounds: {COUNT}, got nothing; the default is 10",
    "rounds=[1]": f"rounds: {COUNT}, got [1]; the default is 10",
    "train.lr=fast": "train.lr: expected a number above 0, got 'fast'; the default is 0.003",
    "train.lr=nan": "train.lr: expected a number above 0, got 'nan'; the default is 0.003",
    "train.lr=.inf": "train.lr: expected a number above 0, got inf; the default is 0.003",
    "seats=foo": "seats: expected auto or a whole number, got 'foo'; the default is 'auto'",
    "seats=false": "seats: expected auto or a whole number, got false; the default is 'auto'",
    "cohort=some": "cohort: expected a number or nothing, got 'some'; leave it out for the default",
    "train=5": "train: expected a section, got 5; set its keys: train.steps, train.epochs, train.batch, …",
    "model.path=5": 'model.path: expected text, got 5; put it in quotes: "5"',
    "model.path=''": "model.path: expected text, got ''; the default is 'tiny'",
    "storage.cache=' '": "storage.cache: expected a path, got ' '; the default is '~/.cache/flexray'",
    "model.trust_remote_code=maybe": "model.trust_remote_code: expected true or false, got 'maybe'; the default is false",
    "evaluation.metrics=loss": "evaluation.metrics: expected a list of text, got 'loss'; write ['loss']",
    "data.keep.kind=x": "data.keep.kind: expected a list of text, got 'x'; write ['x']",
    "data.keep.kind=[1]": 'data.keep.kind.0: expected text, got 1; put it in quotes: "1"',
    "algorithm.lora.targets=[q, x]": "algorithm.lora.targets.1: expected q, k, v or o, got 'x'; choose one of them",
    "algorithm.lora.rank=true": "algorithm.lora.rank: expected a whole number, got true; the default is 8",
    "algorithm=5": "algorithm: expected a section with a name, got 5; write `algorithm: {name: flex}`",
    # values
    "rounds=0": f"rounds: {COUNT}, got 0; the default is 10",
    "train.lr=-1": "train.lr: expected a number above 0, got -1; the default is 0.003",
    "resources.gpu_per_client=-1": "resources.gpu_per_client: expected a number of at least 0 or nothing, got -1; "
    "leave it out for the default",
    "algorithm.gate.mode=of": "algorithm.gate.mode: expected add, mix, route, in_place, off or open, got 'of'; did you mean 'off'?",
    "model.dtype=int8": "model.dtype: expected float32 or bfloat16, got 'int8'; the default is 'float32'",
    "algorithm.name=fedprx": "algorithm.name: expected a known name or a path ending in .py, got 'fedprx'; did you mean 'fedprox'?",
    "data.partition=dirichlt": "data.partition.name: expected a known name or a path ending in .py, got 'dirichlt'; "
    "did you mean 'dirichlet'?",
    "evaluation.metrics=[los]": "evaluation.metrics: expected a known name or a path ending in .py, got 'los'; did you mean 'loss'?",
    "evaluation.metrics=[]": "evaluation.metrics: expected at least one, each once, got []; use [loss, exact_match]",
    "model.family=qwen2_mo": "model.family: expected a known name or a path ending in .py, got 'qwen2_mo'; "
    "did you mean 'qwen2_moe'?",
    "data.partition.name=column": "data.partition.column: expected text, got nothing; set it",
    "data.max_length=2": "data.max_length: expected at least 8 tokens, got 2; 512 is usual",
    "data.max_test_rows=0": "data.max_test_rows: expected at least 1 row, got 0; leave it out for all rows",
    "cohort=0": "cohort: expected 1 to 8 (clients), got 0; lower it or raise clients",
    "cohort=1.5": "cohort: expected a share in (0, 1] or a number of clients, got 1.5; leave it out for all",
    # parts
    "algorithm.lora.rank=0": "algorithm.lora.rank: expected at least 1, got 0; 8 is usual",
    "algorithm.lora.alpha=0": "algorithm.lora.alpha: expected a number above 0, got 0.0; twice the rank is usual",
    "algorithm.lora.dropout=1": "algorithm.lora.dropout: expected at least 0 and less than 1, got 1.0; use 0 for none",
    "algorithm.lora.targets=[q, q]": "algorithm.lora.targets: expected one or more of q, k, v and o, each once, got ['q', 'q']; "
    "the default is [q, k, v]",
    "algorithm.graft.calibration_rows=0": "algorithm.graft.calibration_rows: expected at least 1, got 0; 32 is usual",
    # combinations
    "algorithm.graft.rank=4": "algorithm.graft.rank: expected none with `graft.train: full`, got 4; drop it, or set graft.train to lora",
    "algorithm.gate={mode: open, init: closed}": "algorithm.gate.init: expected none with `gate.mode: open`, got 'closed'; drop it, "
    "or use another mode",
    "algorithm.graft={select: random, calibration_rows: 4}": "algorithm.graft.calibration_rows: expected none with "
    "`graft.select: random`, got 4; drop it, for no row is looked at",
    "algorithm.graft.select=index": "algorithm.graft.index: expected an expert's number with `graft.select: index`, got none; "
    "set graft.index",
    "algorithm.graft={select: index, index: -1}": "algorithm.graft.index: expected an expert's number, got -1; the first expert is 0",
    "train={schedule: constant, final_lr: 0.001}": "train.final_lr: expected none with `train.schedule: constant`, got 0.001; drop it",
    "evaluation.probe_rows=3": "evaluation.probe_rows: expected none without evaluation.probe, got 3; drop it",
    "resources={backend: inline, address: auto}": "resources.address: expected none with `resources.backend: inline`, got 'auto'; "
    "drop one",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_one_line_with_key_expected_got_and_mend(text):
    assert problems(text) == [WRONG[text]]


def test_all_problems_are_told_at_once():
    found = problems("rounds=0", "algorithm.lora.rank=x", "data.partition.name=foo", "train.lr=abc", "modl=1")
    assert sorted(p.partition(":")[0] for p in found) == [
        "algorithm.lora.rank",
        "data.partition.name",
        "modl",
        "rounds",
        "train.lr",
    ]


def test_the_same_from_python():
    with pytest.raises(
        ConfigError, match=r"^algorithm.lora.dropout: expected at least 0 and less than 1, got nan; use 0 for none$"
    ):
        Experiment(algorithm=Flex(lora=Lora(dropout=float("nan"))))
    with pytest.raises(
        ConfigError, match=r"^clients: expected a whole number of at least 1 or nothing, got 0; the default is 8$"
    ):
        Experiment(clients=0)


@pytest.mark.parametrize(
    ("sets", "path", "value"),
    [
        (("train.lr=1e-3",), "train.lr", 1e-3),
        (("rounds=1e3",), "rounds", 1000),
        (("cohort=5e-1",), "cohort", 0.5),
        (("cohort=3",), "cohort", 3),
        (("clients=",), "clients", None),
        (("seats=4",), "seats", 4),
        (("train=",), "train", Train()),
        (("model.revision=12e4567",), "model.revision", "12e4567"),
        (("algorithm.gate.mode=off",), "algorithm.gate", Gate(mode="off")),
        (("algorithm=fedprox", "algorithm.mu=0.5"), "algorithm.mu", 0.5),
        (("algorithm.graft={train: lora, rank: 4}",), "algorithm.graft", Graft(train="lora", rank=4)),
        (("data.partition={name: dirichlet, alpha: 0.1}",), "data.partition.alpha", 0.1),
        (("train.schedule=constant",), "train.schedule", "constant"),
        (("storage.cache=/x",), "storage.cache", Path("/x")),
    ],
)  # fmt: skip
def test_values_as_they_are_meant(sets, path, value):
    found = load(None, sets)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


PARTITIONS = {"column": {"column": "client"}, "from_file": {"path": "who.csv"}}


@pytest.mark.parametrize("algorithm", folder.listing("algorithms"))
@pytest.mark.parametrize("partition", folder.listing("data/partitions"))
def test_a_config_survives_yaml(algorithm, partition):
    dealt = {"name": partition, **PARTITIONS.get(partition, {})}
    x = Experiment(
        rounds=3, algorithm=algorithm, data={"partition": dealt, "keep": {"kind": ["no"]}}, train={"schedule": "constant"}
    )
    assert Experiment(**yaml.safe_load(yaml.safe_dump(x.spec()))) == x


def test_every_config_of_the_house_is_one():
    configs = Path(__file__).parents[1] / "configs"
    assert load(configs / "dolly.yaml").clients == 4


MINE = """
from dataclasses import dataclass
from flexray.algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
    strength: float = 0.5
"""


def test_a_users_file_has_keys_like_any_other_and_travels_along(tmp_path):
    name = str(tmp_path / "mine.py")
    Path(name).write_text(MINE)
    x = load(None, (f"algorithm.name={name}", "algorithm.strength=2"))
    assert x.algorithm.strength == 2
    assert load(None, (f"algorithm={name}",)).plugins == {name: MINE}
    Path(name).unlink()
    assert Experiment(**x.spec()) == x
    assert problems(f"algorithm={name}")[0].startswith(f"algorithm.name: expected a readable file, got '{name}'")
    Path(name).write_text(MINE)
    assert problems(f"algorithm={name}", "algorithm.strenth=2") == [
        f"algorithm.strenth: {UNKNOWN}; did you mean 'algorithm.strength'?"
    ]


class Recipe(config.Section):
    train: Train = Train()
    words: dict[str, list[str]] = Field(default_factory=dict)


def test_a_section_of_its_own():
    assert config.section(Recipe, {"train": {"lr": "1e-3"}, "words": {"a": ["b"]}}).train.lr == 1e-3
    with pytest.raises(ConfigError) as e:
        config.section(Recipe, {"train": {"steps": True}, "lr": 3})
    assert sorted(e.value.problems) == [
        f"lr: {UNKNOWN}; did you mean 'train.lr'?",
        f"train.steps: {COUNT} or nothing, got true; the default is 20",
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (int | float | None, "a number or nothing"),
        (Literal["a", "b"] | int, "a, b or a whole number"),
        (tuple[Literal["q", "k"], ...], "a list of q or k"),
        (dict[str, list[str]], "keys, each with a list of text"),
        (Path | None, "a path or nothing"),
        (bool, "true or false"),
    ],
)
def test_types_in_words(kind, words):
    assert wanted(Key(kind)) == words


def test_the_builtin_corpus_brings_its_labels_and_other_data_does_not(tmp_path):
    assert Experiment().data.columns.label == "domain"
    assert Experiment(data={"columns": {"label": None}}).data.columns.label is None
    assert Experiment(data={"path": str(tmp_path)}).data.columns.label is None


def test_epochs_take_the_place_of_steps():
    x = load(None, ("train.epochs=2",))
    assert x.train.steps is None and Experiment(**x.spec()) == x
    with pytest.raises(
        ConfigError, match=r"train\.epochs: expected either train\.steps or train\.epochs, got 5 and 2\.0; drop one"
    ):
        load(None, ("train.epochs=2", "train.steps=5"))
    with pytest.raises(ConfigError, match=r"train\.epochs: expected either"):
        load(None, ("train.steps=null",))
