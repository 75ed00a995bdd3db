"""What the code says about its keys: the text below a field, else what the class's docstring says of it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from flexray.schema import keys_of


@cache
def fields(cls: type) -> dict[str, str]:
    """Field to its text, for every field that has one; a subclass's goes before its base's."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if keys_of(base):
            found |= dict(_in_docstring(base)) | dict(_below_fields(base))
    own = keys_of(cls)
    for name in own.keys() - found.keys():
        if options := [kind for kind in own[name].choices if keys_of(kind)]:
            found[name] = first(options[0])
    return {name: found[name] for name in own if name in found}


def first(cls: type) -> str:
    """The first sentence of a class's docstring."""
    return re.split(r"(?<=\.)\s", " ".join((inspect.getdoc(cls) or "").split()), maxsplit=1)[0]


def whole(cls: type) -> str:
    """A class's docstring, without passages on single fields that stand with these."""
    text, below = inspect.getdoc(cls) or "", dict(_below_fields(cls))
    start = [mark for mark in _marks(cls, text) if not below.keys() & set(_names(mark))]
    text = text[: start[0].start()] if start else text
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n") if part.strip())


def _below_fields(cls: type) -> Iterator[tuple[str, str]]:
    """Strings that stand right below a field."""
    for item, after in pairwise(_body(cls)):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and (text := _string(after)):
            yield item.target.id, " ".join(text.split())


def _string(item: ast.stmt) -> str:
    value = item.value.value if isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) else None
    return value if isinstance(value, str) else ""


def _body(cls: type) -> list[ast.stmt]:
    """The statements of a class, from its source."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(cls) or cls))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    return found.body


def _in_docstring(cls: type) -> Iterator[tuple[str, str]]:
    """Passages `name: …` or `name and other: …`, each up to the next one."""
    text = inspect.getdoc(cls) or ""
    marks = _marks(cls, text)
    for mark, end in zip(marks, [m.start() for m in marks[1:]] + [len(text)] * bool(marks), strict=True):
        said = " ".join(text[mark.end() : end].split())
        for name in _names(mark):
            yield name, said[:1].upper() + said[1:]


def _marks(cls: type, text: str) -> list[re.Match[str]]:
    """Where a docstring begins to speak of a field of its class, or of several."""
    names = "|".join(name for name in keys_of(cls) if name in inspect.get_annotations(cls))
    return list(re.finditer(rf"(?<![\w`.])(?P<names>(?:{names})(?:(?: and |, )(?:{names}))*): ", text)) if names else []


def _names(mark: re.Match[str]) -> list[str]:
    return re.split(r" and |, ", mark["names"])


def missing(root: Any) -> list[str]:
    """Fields of a class, and of the sections in it, that nothing is said of."""
    own = [f"{root.__name__}.{name}" for name in keys_of(root) if not fields(root).get(name)]
    inner = (kind for key in keys_of(root).values() for kind in key.choices if keys_of(kind))
    return own + [name for kind in inner for name in missing(kind)]
