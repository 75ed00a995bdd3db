"""What the shell offers behind the tabulator: keys with their values, kinds of things, clients of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer


def sets(incomplete: str) -> list[str]:
    """Behind --set: `key=value` whole, with every choice there is, else the default, so that there is a word to go on from."""
    return [text for text in _settings() if text.startswith(incomplete)]


def kinds(incomplete: str) -> list[str]:
    """Behind `list`."""
    from flexray import folder

    return [kind for path in folder.BASES if (kind := path.rpartition("/")[2]).startswith(incomplete)]


def clients(ctx: typer.Context, incomplete: str) -> list[str]:
    """Behind --client: those of the run that is named before it."""
    run = ctx.params.get("run") or next(iter(ctx.args), "")  # where the line is not finished, arguments are still unsorted
    try:
        known = json.loads((Path(run) / "clients.json").read_text())
    except (OSError, ValueError):
        return []
    return [name for row in known if (name := str(row["client"])).startswith(incomplete)]


def _settings() -> Iterator[str]:
    from flexray import folder
    from flexray.config import Experiment
    from flexray.schema import FOLDERS, Schema

    chosen = {
        "algorithm": folder.load("algorithms", "flex", ""),
        "data.partition": folder.load("data/partitions", "column", ""),
    }
    schema = Schema(Experiment, chosen)
    for section, kind in FOLDERS.items():
        yield from (f"{section}.name={name}" for name in folder.listing(kind))
    for dotted in schema.dotted():
        key = schema.find(dotted)
        if key and not schema.keys(dotted) and dotted.removesuffix(".name") not in FOLDERS:
            yield from (f"{dotted}={value}" for value in _values(key.choices, key.default))


def _values(choices: tuple[Any, ...], default: Any) -> list[str]:
    words = [str(word) for kind in choices if get_origin(kind) is Literal for word in get_args(kind)]
    if bool in choices:
        words = ["true", "false"]
    if words or isinstance(default, (Mapping, tuple)):
        return words
    return ["null" if default is None else str(default)]
