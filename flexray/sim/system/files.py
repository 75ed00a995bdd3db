"""Files that say of clients, by name, how fast they are and when they are there."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

from flexray.errors import ConfigError, did_you_mean, expected
from flexray.local_files import contents
from flexray.sections_system import SPREADS, bounds
from flexray.sim.system.availability import Interval

REST = "*"
"""The name that stands for all clients that a file does not name."""
Row = Mapping[str, Any]


def profiles(path: Path, names: Sequence[str]) -> list[dict[str, float]]:
    """Each client's own values, by key: a CSV file with a column `client` and others called like the keys of `system`, empty where
    nothing is said; or a JSON object of such objects by client, or a list of them."""
    key, table = "system.profiles", {}
    for i, row in enumerate(_rows(path, key)):
        table[str(row.get("client"))] = {k: _number(f"{key}: {path}, row {i + 1}, {k}", k, v) for k, v in _values(row, path)}
    return [table.get(name, table.get(REST, {})) for name in _known(table, names, path, key)]


def traces(path: Path, names: Sequence[str], period: float | None) -> tuple[list[list[Interval]], list[float]]:
    """Each client's intervals and period. A CSV file with the columns `client`, `start` and `end` (seconds); a JSON object, client to
    its list of [start, end]; or one in FedScale's form, client to `active` (starts), `inactive` (ends) and `finish_time` (period)."""
    key, found, periods = "system.availability", {}, {}
    for i, row in enumerate(_rows(path, key)):
        own = found.setdefault(name := str(row.get("client")), [])
        try:
            own += _intervals(row)
            periods[name] = float(row.get("finish_time") or period or inf)
        except (TypeError, ValueError, KeyError) as e:
            raise expected(
                key, "start and end seconds, in order", f"{path}, row {i + 1}: {dict(row)}"[:200], "mend the file"
            ) from e
    chosen = [name if name in found else REST for name in _known(found, names, path, key, REST in found)]
    return [found[name] for name in chosen], [periods[name] for name in chosen]


def _intervals(row: Row) -> list[Interval]:
    if "active" in row:
        return _checked(zip(row["active"], row["inactive"], strict=True))
    return _checked(row["intervals"] if "intervals" in row else [(row["start"], row["end"])])


def _checked(pairs: Iterable[Any]) -> list[Interval]:
    found = [(float(start), float(end)) for start, end in pairs]
    if any(not 0 <= start <= end for start, end in found):
        raise ValueError("an interval ends before it starts")
    return found


def _rows(path: Path, key: str) -> list[Row]:
    """A table's rows, or an object's entries as rows."""
    try:
        text = contents(path.expanduser()).decode("utf-8-sig")
    except OSError as e:
        raise expected(key, "a file", str(path), f"{e.strerror}: check the path") from e
    except UnicodeDecodeError as e:
        raise expected(key, "UTF-8 text", f"byte 0x{e.object[e.start]:02x} in {path}", "save the file as UTF-8") from e
    rows = _parsed(text, path, key)
    if not rows:
        raise expected(key, "what it says of clients", f"nothing in {path}", "give it rows, or leave the key out")
    return rows


def _parsed(text: str, path: Path, key: str) -> list[Row]:
    if path.suffix.lower() == ".csv":
        return list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    if path.suffix.lower() != ".json":
        raise expected(key, "a .csv or .json file", str(path), "name it so")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise expected(key, "JSON", f"{path}: {e}", "mend the file") from e
    rows = [_named(name, own) for name, own in told.items()] if isinstance(told, Mapping) else told
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise expected(key, "an object by client, or a list of objects", str(path), "mend the file")
    return rows


def _named(name: str, own: Any) -> Any:
    if isinstance(own, list):
        return {"client": name, "intervals": own}
    return {**own, "client": name} if isinstance(own, Mapping) else own


def _values(row: Row, path: Path) -> list[tuple[str, Any]]:
    if odd := [str(k) for k in row if k not in ("client", *SPREADS)]:
        raise expected(
            f"system.profiles: {path}", "columns called client and keys of system", odd[0], did_you_mean(odd[0], SPREADS)
        )
    return [(k, v) for k, v in row.items() if k != "client" and v not in (None, "")]


def _number(where: str, key: str, value: Any) -> float:
    low, high, words = bounds(key)
    try:
        if low <= (number := float(value)) <= high and isfinite(number):
            return number
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{where}: expected {words}, got {value!r}; mend the file")


def _known(table: Mapping[str, Any], names: Sequence[str], path: Path, key: str, rest: bool = True) -> Sequence[str]:
    """The names, if the file speaks of them and, unless there is a rest, of all of them."""
    if odd := [name for name in table if name not in names and name != REST]:
        raise expected(key, "names of clients", f"{odd[0]!r} in {path}", did_you_mean(odd[0], names[:1000]))
    if not rest and (missing := [name for name in names if name not in table]):
        raise expected(
            key, f"intervals of {missing[0]}", f"none in {path}", f"add them, or a client {REST} for all that are not named"
        )
    return names
