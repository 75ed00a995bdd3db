"""What is wrong with a config, in the house's words: one line per dotted key, with what was expected, what came, the mend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from flexray.schema import ABSENT, HIDDEN, LISTS, Key, Schema, keys_of

NEAR = 0.6
"""How like a known word another must be to be taken for it."""
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def tidied(values: Any, schema: Schema, path: str, found: dict[str, str]) -> Any:
    """Raw values as pydantic should see them; what it would let pass is added to `found`, by dotted key.

    An empty section is one without keys, and text that is a number with an exponent is that number. Refused are true
    and false as numbers, numbers that are none, and empty text.
    """
    known = schema.keys(path)
    if known and values is None:
        return {}
    if known and isinstance(values, Mapping):
        return {str(k): tidied(v, schema, f"{path}.{k}".lstrip("."), found) for k, v in values.items()}
    key = schema.find(path) if path else None
    if known or key is None:
        return values
    if isinstance(values, (list, tuple)):
        return [tidied(v, schema, f"{path}.{i}", found) for i, v in enumerate(values)]
    if isinstance(values, Mapping):
        return {str(k): tidied(v, schema, f"{path}.{k}", found) for k, v in values.items()}
    return _scalar(values, key, path, found)


def _scalar(value: Any, key: Key, path: str, found: dict[str, str]) -> Any:
    kinds = key.choices
    number = _as_number(value) if str not in kinds and not _in_literal(value, kinds) else None
    if (
        isinstance(value, (bytes, date))
        or (isinstance(value, bool) and bool not in kinds and (int in kinds or float in kinds))
        or (number is not None and not math.isfinite(number))
        or (isinstance(value, str) and not value.strip() and (str in kinds or Path in kinds))
    ):
        found[path] = line(path, key, value)
    elif isinstance(value, str) and number is not None and int in kinds and number == int(number):
        return int(number)
    return value


def _as_number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, (str, float)) else None
    except ValueError:
        return None


def _in_literal(value: Any, kinds: Iterable[Any]) -> bool:
    return any(value in get_args(kind) for kind in kinds if get_origin(kind) is Literal)


def lines(errors: Iterable[Mapping[str, Any]], schema: Schema, prefix: str = "") -> dict[str, str]:
    """pydantic's findings by dotted key, one line each: a union's several are one."""
    found: dict[str, str] = {}
    for error in errors:
        path = _place(error["loc"], schema, prefix)
        if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            found[path] = unknown(path, schema)
        elif (key := schema.find(path)) is None:
            found.setdefault(path, f"{path}: expected something else ({error['msg']}), got {show(error['input'])}; mend it")
        else:
            missing = error["type"] in ("missing", "missing_argument")
            found.setdefault(path, line(path, key, ABSENT if missing else error["input"], list(schema.keys(path))))
    return found


def _place(loc: Iterable[Any], schema: Schema, prefix: str) -> str:
    """The dotted key of a finding: pydantic's path without the names of the types that it tried on the way."""
    path = prefix
    for part in loc:
        step = f"{path}.{part}".lstrip(".")
        if part == "[key]" or _is_type(part, schema.find(path)) or not (schema.keys(path) or schema.find(step)):
            break
        path = step
    return path


def _is_type(part: Any, key: Key | None) -> bool:
    """Whether a step of a finding's path names a type that was tried, where several may stand."""
    return key is not None and len(key.choices) > 1 and part in [kind.__name__ for kind in NAMES]


def unknown(path: str, schema: Schema) -> str:
    """The line for a key that there is none of: the nearest ones, wherever they are, else those of the section."""
    parent, _, name = path.rpartition(".")
    others = schema.elsewhere
    own = tuple(schema.dotted())  # of equals a key that is there comes before one that another method would have
    scores = {
        key: _likeness(name, key) + 0.05 * (key.rpartition(".")[0] == parent) + 0.01 * (key in own) for key in (*own, *others)
    }
    best = max(scores.values())
    near = [key for key, score in scores.items() if score == best]
    if path in others:
        mend = f"it belongs to {either(others[path])}: set {parent}.name, or drop it"
    elif best >= NEAR:
        mend = f"did you mean {either(repr(key) + _of(others.get(key)) for key in near[:3])}?"
    else:
        mend = f"choose one of: {', '.join(name for name in schema.keys(parent) if name not in HIDDEN)}"
    return f"{path or repr(path)}: expected a known key, got an unknown one; {mend}"


def _of(names: list[str] | None) -> str:
    return f" (a key of {either(names)})" if names else ""


def _likeness(name: str, key: str) -> float:
    """From 0 to 1, of a word and a key's last one; that may be one of the word's parts, or their initials."""
    word, last = name.lower(), key.rpartition(".")[2]
    parts = word.split("_")
    if len(parts) > 1 and last in parts:
        return 0.8
    return 0.7 if len(last) > 1 and last == "".join(p[:1] for p in parts) else SequenceMatcher(None, word, last).ratio()


def line(path: str, key: Key, got: Any, inside: Iterable[str] = ()) -> str:
    """The line for a value that does not fit its key; `inside`: the keys of the section that should stand here."""
    return f"{path}: expected {wanted(key)}, got {show(got)}; {_mend(path, key, got, list(inside))}"


def wanted(key: Key) -> str:
    """A key's type and bounds in words."""
    kinds = [t for t in key.choices if not (t is int and float in key.choices)]
    words = [word for t in kinds if t is not type(None) for word in _words(t, key.bounds)]
    return either([*words, "nothing"] if type(None) in kinds else words)


def _words(kind: Any, bounds: tuple[Any, ...] = ()) -> list[str]:
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return list(map(str, inner))
    if get_origin(kind) in LISTS:
        return [f"a list of {wanted(Key(inner[0]))}"]
    if get_origin(kind) is dict:
        return [f"keys, each with {wanted(Key(inner[1]))}"]
    if keys_of(kind):
        return ["a section"]
    return [" ".join((NAMES.get(kind, "a value"), *_limits(kind, bounds)))]


def _limits(kind: Any, bounds: tuple[Any, ...]) -> list[str]:
    if kind not in (int, float):
        return []
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    found = [(name, getattr(b, name)) for b in bounds for name in words if hasattr(b, name)]
    said = [f"of at least {limit + 1}" if kind is int and name == "gt" else f"{words[name]} {limit}" for name, limit in found]
    return [" and ".join(said)] if said else []


def _mend(path: str, key: Key, got: Any, inside: list[str]) -> str:
    kinds = key.choices
    words = [str(c) for t in kinds if get_origin(t) is Literal for c in get_args(t)]
    near = max(words, key=lambda word: _likeness(str(got), word), default="")
    if got is ABSENT:
        return "set it"
    if inside:
        return f"set its keys: {', '.join(f'{path}.{name}' for name in inside[:3])}, …"
    if isinstance(got, str) and near and _likeness(got, near) >= NEAR:
        return f"did you mean {near!r}?"
    if any(get_origin(t) in LISTS for t in kinds) and not isinstance(got, (list, tuple, Mapping)) and got is not None:
        return f"write [{show(got)}]"
    if isinstance(got, (bool, int, float)) and (str in kinds or Path in kinds):
        return f'put it in quotes: "{show(got)}"'
    if key.default is ABSENT:
        return "choose one of them" if words else "mend it"
    return "leave it out for the default" if key.default in (None, {}) else f"the default is {show(key.default)}"


def show(value: Any) -> str:
    """A value as it would be written in a config, cut where it is long."""
    if value is ABSENT or value is None:
        return "nothing"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(show, value))}]"
    text = str(value).lower() if isinstance(value, bool) else repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= 80 else f"{text[:76]} …{text[-1]}"


def either(words: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *some, last = words
    return f"{', '.join(some)} or {last}" if some else last
