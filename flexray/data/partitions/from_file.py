"""A deal made elsewhere, read from a file that says which client has which row (.csv .jsonl .json .parquet)."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flexray.data.dealing import Dealt, codes, grouped
from flexray.data.partition import Partition, Rows
from flexray.data.readers import READERS
from flexray.data.sources import split_of
from flexray.errors import ConfigError, expected

Claim = tuple[str, str, str]
"""Split (empty: whichever), row and client."""
SHOWN = 3


@dataclass(frozen=True)
class FromFile(Partition):
    """A .csv, .jsonl, .json or .parquet in one of two forms.

    A table, with the columns `client` and `row`, and `split` where not all are train rows; rows are counted from 0 in
    each split, among those that `data.keep` leaves. With `id`, a column of the data, the table has a column `id` in place
    of `row`, its values, each of one row only; `split` is needed only where splits use the same ones. Or a .json file with
    an object, client to the list of its rows (or ids). A client is called what the file calls it; clients are in the order
    of names.
    """

    path: str
    """The file, relative to the working directory: a table with the columns client and row, or an object, client to list."""
    id: str | None = None
    """A column of the data whose values name rows, in place of their numbers."""
    strict: bool = True
    """What the file names and the data lacks, and rows that it gives to nobody, are errors; false: they are left out, and told.
    """

    @property
    def covers(self) -> bool:
        return self.strict

    def needs(self) -> dict[str, str]:
        return {} if self.id is None else {"id": self.id}

    def inspect(self, splits: Mapping[str, Rows]) -> tuple[str, ...]:
        claims = self._claims()
        keys = {split: self._keys(rows) for split, rows in splits.items()}
        self._check_ids(keys, any(not split for split, _, _ in claims))
        there = {(split, key) for split, own in keys.items() for key in own}
        there |= {("", key) for _, key in there} if self.id else set()
        unknown = [row for split, row, _ in claims if (split, row) not in there]
        free = [(split, key) for split, own in keys.items() for key in _unclaimed(split, own, claims)]
        if unknown and (self.strict or len(unknown) == len(claims)):
            mend = "mend the file" + ("" if len(unknown) == len(claims) else ", or set data.partition.strict to false")
            raise self._wrong(f"{self._rows()} of the data", f"{_some(unknown)}, which no row has", mend)
        if free and self.strict:
            mend = "add the rest, or set data.partition.strict to false to leave it out"
            raise self._wrong(f"a client for every {free[0][0]} row", f"none for {_some([str(key) for _, key in free])}", mend)
        rows = "1 row that {} names is" if len(unknown) == 1 else f"{len(unknown):,} rows that {{}} names are"
        return (rows.format(self.path) + " not in the data",) if unknown else ()

    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> Dealt:
        claims = self._claims()
        known = set(self._keys(train))
        own: dict[str | None, str] = {row: client for split, row, client in claims if split in ("", rows.split)}
        there = {client for split, row, client in claims if self.strict or (split in ("", "train") and row in known)}
        names = sorted(there)
        return dict(zip(names, grouped(codes([own.get(key) for key in self._keys(rows)], names), len(names)), strict=True))

    def _keys(self, rows: Rows) -> list[str | None]:
        return [str(n) for n in rows.numbers] if self.id is None else list(rows.columns[self.id])

    def _rows(self) -> str:
        return "row numbers" if self.id is None else f"values of {self.id!r}"

    def _claims(self) -> list[Claim]:
        """What the file says, every row claimed once."""
        file = Path(os.path.expanduser(self.path))
        if not os.path.isfile(file):
            raise expected("data.partition.path", "a file", self.path, "check the path, relative to the working directory")
        if file.suffix.lower() not in READERS:
            raise expected("data.partition.path", f"a file ending in {', '.join(READERS)}", self.path, "convert it")
        lists = _lists(file) if file.suffix.lower() == ".json" else None
        claims = list(self._of_lists(lists) if lists else self._of_table(file))
        if not claims:
            raise self._wrong("rows and their clients", "none", "give it some")
        anywhere = any(not split for split, _, _ in claims)
        times = Counter(("" if anywhere else split, row) for split, row, _ in claims)
        if twice := [row for (_, row), n in times.items() if n > 1]:
            who = " and ".join(client for _, row, client in claims if row == twice[0])
            raise self._wrong("every row once", f"{_some(twice)} more than once ({twice[0]!r} at {who})", "keep one of each")
        return claims

    def _of_lists(self, lists: Mapping[str, list[object]]) -> Iterator[Claim]:
        split = "train" if self.id is None else ""
        return ((split, str(row), client) for client, rows in lists.items() for row in rows)

    def _of_table(self, file: Path) -> Iterator[Claim]:
        key = "row" if self.id is None else "id"
        try:
            for where, values in READERS[file.suffix.lower()](file):
                row, client, named = (values.get(name) for name in (key, "client", "split"))
                if row in (None, "") or client in (None, ""):
                    raise self._wrong(f"`{key}` and `client`", f"{row!r} and {client!r}", "give every row both", where)
                split = split_of(str(named)) if named else "train" if self.id is None else ""
                if split is None:
                    raise self._wrong("train, valid or test as the split", repr(named), "mend that row", where)
                yield split, str(row), str(client)
        except ConfigError as e:  # readers blame data.path
            raise ConfigError(*(p.replace("data.path:", "data.partition.path:", 1) for p in e.problems)) from None

    def _check_ids(self, keys: Mapping[str, list[str | None]], anywhere: bool) -> None:
        """Every id is of one row: of all rows, or of one split's where the file always names the split."""
        ids = Counter(("" if anywhere else split, key) for split, own in keys.items() for key in own if key is not None)
        twice = [key for (_, key), n in ids.items() if n > 1]
        if self.id is not None and twice:
            mend = "choose another column, or use row numbers: leave data.partition.id out"
            wanted = f"values of {self.id!r} that are of one row each"
            raise ConfigError(f"data.partition.id: expected {wanted}, got {_some(twice)} of more; {mend}")

    def _wrong(self, wanted: str, got: str, mend: str, where: str | None = None) -> ConfigError:
        return ConfigError(f"data.partition.path: expected {wanted} in {where or Path(self.path).name}, got {got}; {mend}")


def _lists(file: Path) -> dict[str, list[object]] | None:
    """An object whose values are all lists; None where the file is something else, which its reader judges."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(isinstance(rows, list) for rows in found.values()) else None


def _unclaimed(split: str, keys: list[str | None], claims: list[Claim]) -> list[str | None]:
    """The rows of a split that nobody has, if anybody has any of it."""
    claimed = {row for of, row, _ in claims if of in ("", split)}
    free = [key for key in keys if key not in claimed]
    return free if split == "train" or len(free) < len(keys) else []


def _some(values: list[str]) -> str:
    more = f" and {len(values) - SHOWN:,} more" if len(values) > SHOWN else ""
    return ", ".join(map(repr, values[:SHOWN])) + more
