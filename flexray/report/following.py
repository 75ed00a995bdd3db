"""The report of runs that are going on, made anew whenever a round or an evaluation has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep

from flexray.report.page import write
from flexray.report.reading import Told

REFRESH = 10
"""Seconds after which a browser loads an unfinished page again."""


def follow(paths: Sequence[Path], out: Path, say: Callable[[Sequence[Told]], None], poll: float = 2.0) -> Path:
    """Until every run is finished, or Ctrl-C; gives the page."""
    page, seen = out, None
    try:
        while True:
            now = state(paths)
            if now != seen:
                try:
                    page, runs = write(paths, out, REFRESH)
                except FileNotFoundError:  # a run that ends puts its parts into one file: look again
                    sleep(0.1)
                    continue
                seen = now
                say(runs)
                if all(run.finished for run in runs):
                    return page
            sleep(poll)
    except KeyboardInterrupt:
        return page


def state(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Changes whenever a run has something new to show."""
    watched = ("clients.json", "summary.json", "rounds/*.parquet", "evaluations/*.parquet")
    files = [file for path in paths for name in watched for file in (*path.glob(name), *path.glob(f"**/runs/*/{name}"))]
    return sorted((str(file), file.stat().st_mtime_ns) for file in files if file.exists())
