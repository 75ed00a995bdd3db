"""The keys of a config, read off its classes: what may stand where, and the keys that another name would bring.

pydantic's models are known by their `model_fields`, so that nothing of it is imported.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from flexray import folder

FOLDERS = {"algorithm": "algorithms", "data.partition": "data/partitions"}
"""The sections whose keys depend on the name that is chosen, and the folder of those names."""
HIDDEN = ("plugins",)
"""Keys that are no concern of people."""
ABSENT = object()
UNIONS = (Union, types.UnionType)
LISTS = (tuple, list)


@dataclass(frozen=True)
class Key:
    """A key of a section. default ABSENT: it must be given."""

    type: Any
    bounds: tuple[Any, ...] = ()
    default: Any = ABSENT

    @property
    def choices(self) -> tuple[Any, ...]:
        """What may stand here: the alternatives of a union, else the one type."""
        return get_args(self.type) if get_origin(self.type) in UNIONS else (self.type,)

    def inner(self, name: str) -> Key | None:
        """What stands at a place in a list, or at a name in a mapping."""
        lists, mappings = ([t for t in self.choices if get_origin(t) in kinds] for kinds in (LISTS, (dict,)))
        if mappings:
            return Key(get_args(mappings[0])[1])
        return Key(get_args(lists[0])[0]) if lists and name.isdigit() else None


@dataclass(frozen=True)
class Schema:
    """All keys of a config. `chosen`: the class that a name has picked, by its section's dotted key."""

    root: type
    chosen: Mapping[str, type] = field(default_factory=dict)

    def keys(self, path: str) -> dict[str, Key]:
        """The keys of the section at a dotted path; none where there is no section."""
        if path in self.chosen:
            return {"name": Key(str), **keys_of(self.chosen[path])}
        key = self.find(path) if path else Key(self.root)
        return keys_of(key.type) if key else {}

    def find(self, path: str) -> Key | None:
        """The key at a dotted path. Names below a mapping are free; a number is a place in a list."""
        parent, _, name = path.rpartition(".")
        if above := self.keys(parent):
            return above.get(name)
        holder = self.find(parent) if parent else None
        return holder.inner(name) if holder else None

    def dotted(self, path: str = "") -> Iterator[str]:
        """Every key below a section, sections among them."""
        for name in self.keys(path):
            if name not in HIDDEN:
                yield (below := f"{path}.{name}".lstrip("."))
                yield from self.dotted(below)

    @cached_property
    def elsewhere(self) -> dict[str, list[str]]:
        """Keys that another name would bring, with the names that do."""
        found: dict[str, list[str]] = {}
        here = set(self.dotted())
        for section in filter(self.find, FOLDERS):
            for name in folder.listing(FOLDERS[section]):
                other = Schema(self.root, {**self.chosen, section: folder.load(FOLDERS[section], name, section)})
                for key in set(other.dotted(section)) - here:
                    found.setdefault(key, []).append(name)
        return found


def keys_of(section: Any) -> dict[str, Key]:
    """The keys of a section's class; none for anything else."""
    return _keys_of(section) if isinstance(section, type) else {}


@cache
def _keys_of(section: Any) -> dict[str, Key]:
    if hasattr(section, "model_fields"):
        return {
            name: Key(f.annotation, tuple(f.metadata), ABSENT if f.is_required() else f.get_default(call_default_factory=True))
            for name, f in section.model_fields.items()
        }
    if not is_dataclass(section):
        return {}
    hints = get_type_hints(section, include_extras=True)
    return {f.name: _key(hints[f.name], f.default, f.default_factory) for f in fields(section)}


def _key(hint: Any, default: Any, factory: Any) -> Key:
    hint, *bounds = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    default = default if factory is MISSING else factory()
    return Key(hint, tuple(bounds), ABSENT if default is MISSING else default)
