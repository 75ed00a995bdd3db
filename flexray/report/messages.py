"""The small things that a command says: lists of what there is, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil
from pathlib import Path
from traceback import format_exception
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROWS = 22
"""Of a screen that are left for what is wrong."""


def as_json(value: Any) -> str:
    """One JSON document."""
    return json.dumps(value, indent=1)


def listing(kinds: Mapping[str, Mapping[str, str]], console: Console) -> None:
    """Names and their one line, a block for each kind."""
    width = max(len(name) for names in kinds.values() for name in names) + 2
    for kind, names in kinds.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(width=width, no_wrap=True)
        for name, line in names.items():
            table.add_row(Text(f"  {name}"), Text(line))
        console.print(Text(kind, style="bold"))
        console.print(table, highlight=False)


def wrong(problems: Sequence[str], console: Console) -> None:
    """Wrong input, a problem a line, its key in bold; of many the first ones, so that all is on one screen."""
    console.print(Text("Wrong input:", style="bold red"))
    rows = list(accumulate(ceil((2 + len(problem)) / console.width) for problem in problems))
    shown = max(1, sum(n <= ROWS for n in rows))
    for problem in problems[:shown]:
        key, colon, rest = problem.partition(":")
        console.print(Text.assemble("  ", (key, "bold"), colon, rest), soft_wrap=True)
    if len(problems) > shown:
        console.print(f"  and {len(problems) - shown:,} more", highlight=False)


def failed(what: str, console: Console) -> None:
    """A failure, and what to do about it."""
    first, _, rest = what.partition("\n")
    console.print(Text(first, style="bold red"), soft_wrap=True)
    if rest:
        console.print(Text(rest), soft_wrap=True)


def traceback(error: BaseException, console: Console) -> None:
    """The whole traceback, plain."""
    console.print(Text("".join(format_exception(error))), soft_wrap=True)


def keep_traceback(error: BaseException, folder: Path | None) -> Path | None:
    """Put the traceback into a run folder; its file, or None where there is no folder."""
    if folder is None or not folder.is_dir():
        return None
    file = folder / "error.log"
    file.write_text("".join(format_exception(error)), encoding="utf-8")
    return file
