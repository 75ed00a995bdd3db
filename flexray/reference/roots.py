"""What a config file may hold: the classes at its top, and those that a name picks."""

from __future__ import annotations

from collections.abc import Iterator

from flexray import folder
from flexray.comparison.spec import Compare
from flexray.config import Experiment
from flexray.recipe import Recipe
from flexray.schema import FOLDERS, Key, keys_of
from flexray.sweeping.spec import Sweep

EXTRA: dict[str, type] = {"compare": Compare, "sweep": Sweep}
"""Sections beside an experiment's: what they are for `flexray compare` and `flexray sweep`."""
DEFAULTS = {"algorithm": "flex", "data.partition": "column"}
"""Which name stands in where a section has none."""
LISTED = {"evaluation.metrics": "metrics", "tracking": "trackers", "model.family": "models/families"}
"""Keys whose values are names of a folder's files too."""


def named(section: str) -> Iterator[tuple[str, type]]:
    """Every name of `algorithm` or `data.partition`, with its class."""
    kind = FOLDERS[section]
    for name in folder.listing(kind):
        yield name, folder.load(kind, name, section)


def options() -> dict[type, list[str]]:
    """Every class of options that methods have (adapters, gates, …), with the methods and the key that they have it at."""
    found: dict[type, list[str]] = {}
    for name, cls in named("algorithm"):
        for key, value in keys_of(cls).items():
            for kind in filter(keys_of, value.choices):
                found.setdefault(kind, []).append(f"{name}.{key}")
    return found


def sections(root: type = Experiment, path: str = "") -> Iterator[tuple[str, type, dict[str, Key]]]:
    """Sections from the top down, depth first, with their keys; those that a name picks are left out."""
    yield path, root, keys_of(root)
    for name, key in keys_of(root).items():
        below = f"{path}.{name}".lstrip(".")
        for kind in () if below in FOLDERS else filter(keys_of, key.choices):
            yield from sections(kind, below)


__all__ = ["DEFAULTS", "EXTRA", "LISTED", "Experiment", "Recipe", "named", "options", "sections"]
