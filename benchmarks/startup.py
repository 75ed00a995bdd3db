"""How long `flexray --help` takes, against a bare Typer app with the same commands.

The bare app is cli.py with every function's body taken out, so that both have the same commands, options and help.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.common import interleaved, machine, middle, table
from flexray.folder import PACKAGE


def emptied(source: str) -> str:
    """The same module, in which no function does anything."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [*([node.body[0]] if ast.get_docstring(node) else []), ast.Pass()]
    return ast.unparse(tree)


def timed(script: Path) -> Callable[[], float]:
    """Seconds of a fresh `script --help` per call."""

    def run() -> float:
        started = perf_counter()
        subprocess.run([sys.executable, str(script), "--help"], check=True, stdout=subprocess.DEVNULL)
        return perf_counter() - started

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    options = parser.parse_args()
    print(machine())
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare_cli.py").write_text(emptied((PACKAGE / "cli.py").read_text()))
        scripts = {"flexray --help": "flexray.cli", "bare Typer app --help": "bare_cli"}
        for module in scripts.values():
            (folder / f"run_{module.split('.')[0]}.py").write_text(f"from {module} import app\napp()\n")
        runs = {label: timed(folder / f"run_{module.split('.')[0]}.py") for label, module in scripts.items()}
        for run in runs.values():
            run()  # byte code written, files in the page cache
        given = interleaved(runs, options.repetitions)
    ours, bare = given.values()
    rows = [(label, middle([1000 * s for s in seconds], ".0f")) for label, seconds in given.items()]
    print(table(("", "milliseconds: median (range)"), rows))
    print(f"ratio of the medians: {median(ours) / median(bare):.2f}")


if __name__ == "__main__":
    main()
