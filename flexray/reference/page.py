"""The config's reference as Markdown: every key with its type, default, meaning, and who has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flexray import folder
from flexray.findings import show, wanted
from flexray.reference import roots, told
from flexray.schema import ABSENT, FOLDERS, HIDDEN, Key, keys_of

HEAD = """# Configuration

<!-- Made by `flexray schema --markdown`, from the code; `make docs` writes it anew. -->

Every key, as it may stand in a YAML file or behind `--set`, with its default. `flexray schema` prints the same as a JSON schema,
for editors. A key that is missing has its default; one that is unknown, or would be ignored, is an error that says how to mend it.

```console
flexray simulate my.yaml --set train.lr=0.001 --set algorithm.gate.init=closed
```

- [The experiment](#the-experiment): read by `simulate`, `plan` and `partition`, and by `compare` and `sweep` for each of their runs.
- [algorithm](#algorithm): the methods' own keys, and the options that they share.
- [data.partition](#datapartition): the partitions' own keys.
- [compare](#compare), [sweep](#sweep): sections that `flexray compare` and `flexray sweep` read.
- [The recipe](#the-recipe): what `flexray pretrain` reads.
"""


OF_RECIPE = " (recipe)"
"""Behind the headings of a recipe's sections, as a config has some of the same name."""


def markdown() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_experiment(), *_algorithms(), *_partitions(), *_extra(), *_recipe()])


def _experiment() -> Iterator[str]:
    yield from ("## The experiment", "")
    for path, cls, keys in roots.sections():
        yield from _block(f"### {path}" if path else "", told.whole(cls), cls, path, keys)


def _algorithms() -> Iterator[str]:
    yield from ("## algorithm", "", _of_names("algorithm", "methods"), "")
    yield from ("### Options that methods share", "")
    for kind, users in roots.options().items():
        for key, names in _by_key(users).items():
            yield from (f"#### algorithm.{key}", "", _had_by(names), "")
            yield from _block("", told.whole(kind), kind, f"algorithm.{key}", keys_of(kind))
    yield from ("### Keys of each method", "")
    for name, cls in roots.named("algorithm"):
        yield from _of_name("algorithm", name, cls)


def _partitions() -> Iterator[str]:
    yield from ("## data.partition", "", _of_names("data.partition", "partitions"), "")
    for name, cls in roots.named("data.partition"):
        yield from _of_name("data.partition", name, cls)


def _extra() -> Iterator[str]:
    for name, cls in roots.EXTRA.items():
        yield from (f"## {name}", "", f"Read by `flexray {name}`.", "")
        for path, inner, keys in roots.sections(cls, name):
            yield from _block(f"### {path}" if path != name else "", told.whole(inner), inner, path, keys)


def _recipe() -> Iterator[str]:
    yield from ("## The recipe", "", "Read by `flexray pretrain`, from a file of its own.", "")
    for path, cls, keys in roots.sections(roots.Recipe):
        yield from _block(f"### {path}{OF_RECIPE}" if path else "", told.whole(cls), cls, path, keys, OF_RECIPE)


def _of_names(section: str, what: str) -> str:
    default = roots.DEFAULTS[section]
    known = ", ".join(f"`{name}`" for name in folder.listing(FOLDERS[section]))
    return (
        f"`{section}.name` is one of the {what} {known}, or the path of a [file of your own](extending.md). The name alone may stand "
        f"for the section, `{section}: {default}`; without a name it is `{default}`."
    )


def _of_name(section: str, name: str, cls: type) -> Iterator[str]:
    """A name's own keys, one by one; shared options by their section."""
    line = folder.listing(FOLDERS[section])[name]
    keys = {key: value for key, value in keys_of(cls).items() if not any(map(keys_of, value.choices))}
    shared = [f"[{section}.{key}](#{_anchor(f'{section}.{key}')})" for key in keys_of(cls) if key not in keys]
    yield from (f"#### {name}", "", line, "", _escaped(told.whole(cls)), "")
    if shared:
        yield from (f"Has {', '.join(shared)}.", "")
    if keys:
        yield from _table(cls, section, keys)


def _block(head: str, about: str, cls: type, path: str, keys: dict[str, Key], of: str = "") -> Iterator[str]:
    plain = {name: key for name, key in keys.items() if name not in HIDDEN}
    yield from ((head, "") if head else ())
    yield from ((_escaped(about), "") if about else ())
    yield from _table(cls, path, plain, of)


def _table(cls: type, path: str, keys: dict[str, Key], of: str = "") -> Iterator[str]:
    said = told.fields(cls)
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for name, key in keys.items():
        dotted = f"{path}.{name}".lstrip(".")
        cells = (f"`{dotted}`", _type(key, dotted, of), _default(key, dotted), said.get(name, ""))
        yield f"| {' | '.join(map(_escaped, cells))} |"
    yield ""


def _type(key: Key, dotted: str, of: str) -> str:
    if dotted in FOLDERS or any(map(keys_of, key.choices)):
        return f"[section](#{_anchor(dotted + of)})"
    return wanted(key).replace("nothing", "null")


def _default(key: Key, dotted: str) -> str:
    if dotted in roots.DEFAULTS:
        return f"`{roots.DEFAULTS[dotted]}`"
    if any(map(keys_of, key.choices)):
        return ""
    return "*must be given*" if key.default is ABSENT else f"`{_shown(key.default)}`"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (str, Path)):
        return str(value)
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, (tuple, list)) else show(value)


def _by_key(users: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user in users:
        name, key = user.split(".")
        found.setdefault(key, []).append(name)
    return found


def _had_by(names: list[str]) -> str:
    return f"Of {', '.join(f'`{name}`' for name in names)}."


def _anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w -]", "", heading).replace(" ", "-")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
