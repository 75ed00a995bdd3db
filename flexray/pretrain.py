"""A base model from a corpus, through Ray Train: `flexray pretrain RECIPE --out FOLDER`.

On one machine the same recipe gives the same bytes: data, weights, batches and the number of threads all come from it.
With more workers a batch is shared out among them; the loss is that of the whole batch, the balance loss each worker's own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError

from flexray import config, folder
from flexray.data import builtin
from flexray.data.options import Columns, Data
from flexray.data.prompts import tokenise
from flexray.data.rows import Row, load_rows
from flexray.errors import ConfigError, RunError

Log = Callable[[str], None]


class Corpus(config.Section):
    """What to train on. path `builtin`: the public part of the built-in corpus, `rows` of it; else as in a run's `data`.

    Held out are the source's test (or valid) rows; where it has none, `held_out` rows cut off by the seed.
    """

    path: str = "builtin"
    rows: int | None = Field(None, gt=0)
    subset: str | None = None
    columns: Columns = Columns()
    keep: dict[str, list[str]] = {}
    prompt: Literal["alpaca", "chat"] = "alpaca"
    max_length: int = Field(512, ge=8)
    held_out: int = Field(1000, gt=0)


class Architecture(config.Section):
    """base: `tiny`, a folder or a hub id whose config.json to start from; fields: what to change in it."""

    base: str = "tiny"
    fields: dict[str, Any] = {}


class Vocabulary(config.Section):
    """path: a tokenizer's folder or hub id; unset, a byte-level one of `size` tokens is learnt from the train rows."""

    path: str | None = None
    size: int = Field(1280, ge=320)


class Workers(config.Section):
    """Ray Train's workers and torch's threads in each. storage: where checkpoints go; on several nodes a shared folder."""

    workers: int = Field(1, gt=0)
    threads: int = Field(4, gt=0)
    gpu: bool = False
    address: str = "local"
    storage: Path | None = None


class Recipe(config.Section):
    """How a base is made.

    lr: the peak, after `warmup` steps, then a cosine. prompt_weight: of a prompt token's loss, a response token's being 1.
    balance: weight of the load-balancing loss. dtype: of the saved weights; training is in float32.
    """

    seed: int = Field(0, ge=0)
    data: Corpus = Corpus()
    model: Architecture = Architecture()
    tokenizer: Vocabulary = Vocabulary()
    steps: int = Field(1000, gt=0)
    batch: int = Field(64, gt=0)
    lr: float = Field(2e-3, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    clip: float = Field(1.0, gt=0)
    prompt_weight: float = Field(0.1, ge=0, le=1)
    balance: float = Field(0.02, ge=0)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    resources: Workers = Workers()


def load(path: Path | None, sets: tuple[str, ...] = ()) -> Recipe:
    """A recipe from a YAML file and overrides `dotted.key=value`."""
    values = config.read_yaml(path) if path else {}
    for text in sets:
        config.override(values, text)
    try:
        recipe = Recipe(**values)
    except ValidationError as e:
        raise config.as_config_error(e, Recipe) from None
    if problems := list(_problems(recipe)):
        raise ConfigError(*problems)
    return recipe


def run(path: Path | None, sets: tuple[str, ...], out: Path, log: Log = print) -> dict[str, Any]:
    """The recipe's base into the folder `out`; gives the scores that are written there as training.json."""
    return pretrain(load(path, sets), out, log)
