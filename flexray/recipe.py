"""What a base model is made of: the recipe, read from YAML and checked, and the rows and tokenizer that it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from flexray import config, folder, raw
from flexray.data import builtin
from flexray.data.options import Columns, Data
from flexray.data.prompts import Encoder, tokenise
from flexray.data.rows import Row, load_rows
from flexray.errors import ConfigError

if TYPE_CHECKING:
    from flexray.models.pretraining import Packed


class Corpus(config.Section):
    """What to train on."""

    path: str = "builtin"
    """`builtin`: the public part of the built-in corpus; else as in a run's data."""
    rows: int | None = Field(default=None, gt=0)
    """How many rows of the built-in corpus; null: as many as the steps take."""
    subset: str | None = None
    """Which configuration of a hub data set."""
    columns: Columns = Columns()
    """Which columns of the source hold what."""
    keep: dict[str, list[str]] = Field(default_factory=dict)
    """Column to the values to keep."""
    prompt: Literal["alpaca", "chat"] = "alpaca"
    """`alpaca`, or the tokenizer's own `chat` template."""
    max_length: int = Field(default=512, ge=8)
    """Tokens per row."""
    held_out: int = Field(default=1000, gt=0)
    """Rows to score on: the source's test (or valid) rows; where it has none, so many cut off by the seed."""


class Architecture(config.Section):
    """What the model looks like."""

    base: str = "tiny"
    """`tiny`, a folder or a hub id whose config.json to start from."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """What to change in it."""


class Vocabulary(config.Section):
    """The tokenizer."""

    path: str | None = None
    """`tiny`, a tokenizer's folder or hub id; null: a byte-level one is learnt from the train rows."""
    size: int = Field(default=1280, ge=320)
    """Its tokens."""


class Workers(config.Section):
    """Ray Train's workers."""

    workers: int = Field(default=1, gt=0)
    """Ray Train's workers."""
    threads: int = Field(default=4, gt=0)
    """torch's threads in each."""
    gpu: bool = False
    """Whether each has a GPU."""
    address: str = "local"
    """`local` starts Ray here; `auto` or host:port joins a running cluster."""
    storage: Path | None = None
    """Where checkpoints go; on several nodes a shared folder."""


class Recipe(config.Section):
    """How a base is made."""

    seed: int = Field(default=0, ge=0)
    """Of everything that is left to chance."""
    data: Corpus = Corpus()
    """What to train on."""
    model: Architecture = Architecture()
    """What the model looks like."""
    tokenizer: Vocabulary = Vocabulary()
    """Its tokenizer."""
    steps: int = Field(default=1000, gt=0)
    """How many."""
    batch: int = Field(default=64, gt=0)
    """Rows of a step, over all workers."""
    lr: float = Field(default=2e-3, gt=0)
    """The peak, after the warm-up; then a cosine."""
    warmup: int = Field(default=100, ge=0)
    """Steps in which it rises."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's."""
    clip: float = Field(default=1.0, gt=0)
    """The most that the gradient's norm may be."""
    prompt_weight: float = Field(default=0.1, ge=0, le=1)
    """Of a prompt token's loss, a response token's being 1."""
    balance: float = Field(default=0.02, ge=0)
    """Weight of the load-balancing loss."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the saved weights; training is in float32."""
    resources: Workers = Workers()
    """Workers, and where they run."""


def load(path: Path | None, sets: tuple[str, ...] = ()) -> Recipe:
    """A recipe from a YAML file and overrides `dotted.key=value`."""
    if path and not raw.read(path):
        raise ConfigError(
            f"config: expected a recipe, got nothing in {str(path)!r}; write `steps: 3000`, or take configs/tiny.yaml"
        )
    recipe = config.section(Recipe, raw.read(path, sets))
    if problems := list(_problems(recipe)):
        raise ConfigError(*problems)
    return recipe


def _problems(recipe: Recipe) -> Iterator[str]:
    data, workers = recipe.data, recipe.resources.workers
    if data.path == "builtin":
        given = [k for k in ("subset", "columns", "keep") if k in data.model_fields_set]
        yield from (f"data.{k}: expected none with the built-in corpus, got {getattr(data, k)!r}; drop it" for k in given)
    elif data.rows is not None:
        yield f"data.rows: expected none with {data.path!r}, got {data.rows}; it is for the built-in corpus"
    if recipe.tokenizer.path and "size" in recipe.tokenizer.model_fields_set:
        yield f"tokenizer.size: expected none with tokenizer.path, got {recipe.tokenizer.size}; drop one of the two"
    if recipe.batch < workers:
        yield f"batch: expected at least resources.workers ({workers}), got {recipe.batch}; every worker needs a row"
    if recipe.warmup >= recipe.steps:
        yield f"warmup: expected less than steps ({recipe.steps}), got {recipe.warmup}; lower it"


def corpus(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows held out; their label is the domain where the corpus is the built-in one."""
    data = recipe.data
    if data.path == "builtin":
        counts = {"train": data.rows or recipe.steps * recipe.batch, "test": data.held_out}
        made = {split: builtin.public_rows(recipe.seed, count, split) for split, count in counts.items()}
        train, held_out = ([_builtin_row(split, row) for row in made[split]] for split in counts)
        return train, held_out
    partition = folder.load("data/partitions", "iid", "data")()
    source = Data(partition, data.path, data.subset, data.columns, data.keep, data.prompt, data.max_length)
    splits = load_rows(source, recipe.seed)
    if given := splits.get("test") or splits.get("valid"):
        return splits["train"], given[: data.held_out]
    train = splits["train"]
    if len(train) <= data.held_out:
        raise ConfigError(f"data.held_out: expected fewer than the {len(train)} rows there are, got {data.held_out}; lower it")
    order = np.random.default_rng([recipe.seed, 6]).permutation(len(train))
    return [train[i] for i in order[data.held_out :]], [train[i] for i in order[: data.held_out]]


def _builtin_row(split: str, row: dict[str, str]) -> Row:
    return Row(split, row["instruction"], row["input"], row["output"], row["domain"], {})


def tokenizer(recipe: Recipe, train: list[Row], folder: Path) -> Path:
    """The folder of the tokenizer that the recipe names or has made."""
    from flexray.models import tiny
    from flexray.models.tokenizer import Tokenizer, build

    if recipe.tokenizer.path:
        path = tiny.folder() if recipe.tokenizer.path == "tiny" else recipe.tokenizer.path
        Tokenizer(path, key="tokenizer.path").save(folder)
    else:
        texts = (text for row in train for text in (row.instruction, row.input, row.output) if text)
        build(texts, recipe.tokenizer.size).save_pretrained(folder)
    return folder


def pack(recipe: Recipe, rows: list[Row], encoder: Encoder) -> Packed:
    """The rows as tokens; those without a response are left out."""
    from flexray.models import pretraining

    made = tokenise(rows, recipe.data.prompt, recipe.data.max_length, encoder)
    kept = [(row.label, t) for row, t in zip(rows, made, strict=True) if t.tokens]
    if not kept:
        raise ConfigError("data.columns.output: expected a column with responses, got only empty ones; choose another")
    return pretraining.pack([(t.tokens, t.response_start) for _, t in kept], [label for label, _ in kept])
