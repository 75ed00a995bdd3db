"""From a source's columns to rows of instruction, input and output: mapped, checked, and kept or not."""

import datetime
import decimal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flexray.data.options import Columns, Data
from flexray.data.sources import SPLITS, Piece, Source, find
from flexray.errors import ConfigError, did_you_mean

LONGEST_TEXT = 10_000_000
"""Characters; a tokenizer takes some forty bytes for each."""
SCALARS = (str, bool, int, float, decimal.Decimal, datetime.date, datetime.datetime, datetime.time)


@dataclass(frozen=True)
class Row:
    """One row's texts. `output` is None or blank where there is nothing to learn. `columns`: all else, None where unset."""

    split: str
    instruction: str
    input: str
    output: str
    label: str
    columns: dict[str, str | None]


@dataclass(frozen=True)
class Survey:
    """What a first pass over all rows finds: the columns besides the texts that hold plain values, and rows per split."""

    columns: tuple[str, ...]
    counts: dict[str, int]


def load_rows(data: Data, seed: int, clients: int | None = None) -> dict[str, list[Row]]:
    """All rows of the config's source that are kept, as text: split to rows."""
    source = find(data, seed, clients)
    found = survey(source, data)
    rows: dict[str, list[Row]] = {split: [] for split in found.counts}
    for row in read(source, data, found):
        rows[row.split].append(row)
    return rows


def read(source: Source, data: Data, found: Survey) -> Iterator[Row]:
    """The kept rows, split by split, in the source's order. `found` has checked them."""
    c = data.columns
    for piece, values in _all_rows(source):
        if not _kept(values, data.keep):
            continue
        instruction, context, output = (_text(values.get(name)) or "" for name in (c.instruction, c.input, c.output))
        label = (_text(values.get(c.label)) or "") if c.label else ""
        extra = {name: _text(values.get(name)) for name in found.columns}
        yield Row(piece.split, instruction, context, output, label, extra)


def survey(source: Source, data: Data) -> Survey:
    """Read everything once: names, types, the values that `data.keep` asks for. Raises on the first thing wrong."""
    columns: dict[str, bool] = {}
    counts: dict[str, int] = {}
    values_of: dict[str, set[str]] = {name: set() for name in data.keep}
    for piece in _in_order(source):
        names: set[str] = set()
        empty = True
        for where, values in _with_file(piece):
            empty = False
            names.update(values)
            kept = _kept(values, data.keep)
            _check_types(values, data.columns, where, kept)
            for name, value in values.items():
                columns[name] = columns.get(name, True) and (value is None or isinstance(value, SCALARS))
            for name, seen in values_of.items():
                seen.update(filter(None, [_text(values.get(name))]))
            counts[piece.split] = counts.get(piece.split, 0) + kept
        if empty:
            raise ConfigError(f"data.path: expected rows, got none in {piece.where}; give it some or take it away")
        _check_names(names, data, piece)
    _check_kept(data.keep, values_of, counts)
    texts = {data.columns.instruction, data.columns.input, data.columns.output}
    return Survey(tuple(name for name, plain in columns.items() if plain and name not in texts), counts)


def _in_order(source: Source) -> list[Piece]:
    return sorted(source.pieces, key=lambda piece: SPLITS.index(piece.split))


def _with_file(piece: Piece) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, values in piece.read():
        yield where, values if piece.stem is None else {"file": piece.stem, **values}


def _all_rows(source: Source) -> Iterator[tuple[Piece, dict[str, Any]]]:
    for piece in _in_order(source):
        for _, values in _with_file(piece):
            yield piece, values


def _text(value: Any) -> str | None:
    """Plain values become text, a number that is none nothing; half a surrogate pair, which no encoding has, becomes the
    replacement character."""
    if value is None or value != value or not isinstance(value, SCALARS):
        return None
    text = value if isinstance(value, str) else str(value)
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _kept(values: Mapping[str, Any], keep: Mapping[str, list[str]]) -> bool:
    return all(_text(values.get(name)) in wanted for name, wanted in keep.items())


def _check_types(values: Mapping[str, Any], columns: Columns, where: str, kept: bool) -> None:
    for key in ("instruction", "input", "output", "label"):
        name = getattr(columns, key)
        value = values.get(name) if name else None
        if value is not None and not isinstance(value, SCALARS):
            raise ConfigError(
                f"data.columns.{key}: expected text in the column {name!r}, got {type(value).__name__} in {where}; "
                "choose another column or make it text"
            )
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ConfigError(
                f"data.columns.{key}: expected at most {LONGEST_TEXT:,} characters in {where}, got {len(value):,}; split the row, "
                "or drop it"
            )
    if kept and columns.label and not (_text(values.get(columns.label)) or "").strip():
        raise ConfigError(
            f"data.columns.label: expected a value of {columns.label!r} in every row, got none in {where}; mend the row"
        )


def _check_names(names: set[str], data: Data, piece: Piece) -> None:
    wanted = {f"columns.{key}": getattr(data.columns, key) for key in ("instruction", "input", "output", "label")}
    if data.columns.input == Columns.input:
        del wanted["columns.input"]
    for key, name in {**wanted, **{f"keep.{name}": name for name in data.keep}}.items():
        if name is not None and name not in names:
            near = did_you_mean(name, names)
            mend = near if near.startswith("did you") else "choose one of those"
            have = ", ".join(sorted(names))
            raise ConfigError(f"data.{key}: expected a column of {piece.where} (it has {have}), got {name!r}; {mend}")


def _check_kept(keep: Mapping[str, list[str]], values_of: Mapping[str, set[str]], counts: Mapping[str, int]) -> None:
    for name, wanted in keep.items():
        for value in wanted:
            if value not in values_of[name]:
                have = ", ".join(sorted(values_of[name])[:20])
                near = did_you_mean(value, values_of[name])
                mend = near if near.startswith("did you") else "choose one of those"
                raise ConfigError(f"data.keep.{name}: expected values of that column ({have}), got {value!r}; {mend}")
    for split, count in counts.items():
        if count == 0:
            have = "; ".join(f"{name}: {', '.join(sorted(seen)[:20])}" for name, seen in values_of.items())
            raise ConfigError(f"data.keep: expected rows to be left in every split, got none in {split}; the values are {have}")
