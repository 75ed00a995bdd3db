"""The report of runs that are going on, made anew whenever a round or an evaluation has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep

from flexray.report import page

REFRESH = 10
"""Seconds after which a browser loads an unfinished page again."""


def made(paths: Sequence[Path], out: Path, refresh: int | None = None) -> tuple[Path, str, bool]:
    """The page of a sweep, or of runs; how far they are, in a line; and whether they are over."""
    if len(paths) == 1 and (paths[0] / "sweep.yaml").exists():
        from flexray.report import sweep_page  # brings torch, which whoever reports on runs need not wait for

        file, sweep = sweep_page.write(paths[0], out, refresh)
        return file, sweep_page.state(sweep), sweep.left <= 0
    file, runs = page.write(paths, out, refresh)
    return file, page.state(runs), all(run.finished for run in runs)


def follow(paths: Sequence[Path], out: Path, say: Callable[[str], None], poll: float = 2.0) -> Path:
    """Until every run is finished, or Ctrl-C; gives the page."""
    file, seen = out, None
    try:
        while True:
            now = state(paths)
            if now != seen:
                try:
                    file, told, over = made(paths, out, REFRESH)
                except FileNotFoundError:  # a run that ends puts its parts into one file: look again
                    sleep(0.1)
                    continue
                seen = now
                say(told)
                if over:
                    return file
            sleep(poll)
    except KeyboardInterrupt:
        return file


def state(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Changes whenever a run has something new to show."""
    watched = ("clients.json", "summary.json", "rounds/*.parquet", "evaluations/*.parquet", "trials/*.json")
    files = [file for path in paths for name in watched for file in (*path.glob(name), *path.glob(f"**/runs/*/{name}"))]
    return sorted((str(file), file.stat().st_mtime_ns) for file in files if file.exists())
