"""Makes the README's pictures from a real run: terminal.svg, what `flexray simulate` prints, and report.png, its report in a browser.

make pictures        (needs Chromium: apt install chromium)
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from rich.console import Console

from flexray import cli

HERE = Path(__file__).resolve().parent
COMMAND = ["simulate", "--set", "evaluation.metrics=[loss]"]
COLUMNS, WIDTH, HEIGHT = 84, 1180, 1260


def terminal(run: Path) -> str:
    """What the command prints, as SVG without fonts from anywhere else."""
    seen: list[Console] = []

    def console(**_: Any) -> Console:
        seen.append(Console(record=True, width=COLUMNS, file=StringIO()))
        return seen[-1]

    cli.new_console = console
    cli.app([*COMMAND, "--out", str(run)], standalone_mode=False)
    printed = seen[0].export_svg(title=f"flexray {' '.join(COMMAND)}")
    return re.sub(r"@font-face \{.*?\}\s*", "", printed, flags=re.DOTALL)


def report(run: Path, browser: str) -> None:
    """The page at a laptop's width, in few colours."""
    cli.app(["report", str(run)], standalone_mode=False)
    shot = run / "shot.png"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}")
    page = (run / "report" / "index.html").resolve().as_uri()
    subprocess.run([browser, *flags, f"--screenshot={shot}", page], check=True, capture_output=True)
    Image.open(shot).convert("RGB").quantize(96).save(HERE / "report.png", optimize=True)


def main() -> None:
    browser = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("the picture of the report needs Chromium: apt install chromium")
    with TemporaryDirectory() as name:
        os.chdir(name)
        run = Path("runs/first")
        (HERE / "terminal.svg").write_text(terminal(run), encoding="utf-8")
        report(run, browser)


if __name__ == "__main__":
    main()
