"""What a command does when something goes wrong: one screen on stderr, and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from flexray import completing

if TYPE_CHECKING:
    from rich.console import Console

Config = Annotated[Path | None, typer.Argument(help="A YAML file; without one the embedded default.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a dotted key, such as train.lr=0.001.",
        autocompletion=completing.sets,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="WHERE", help="local, auto, host:port or ray://host:port: the same as --set resources.address=WHERE."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own output, and tracebacks of failures.")]
FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


def all_sets(sets: list[str] | None, address: str | None) -> tuple[str, ...]:
    """What `--set` and `--address` say."""
    return (*(sets or ()), *((f"resources.address={address}",) if address else ()))


def console(err: bool = False, quiet: bool = False) -> Console:
    """Where to print, or not."""
    from rich.console import Console

    return Console(stderr=err, quiet=quiet)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class Answering:
    """Around a command; `folder` is that of what it runs, once it is known, and `start` the file in it from which to go on."""

    def __init__(self, verbose: bool = False, command: str = "simulate", start: str = "config.yaml"):
        self.verbose, self.command, self.start = verbose, command, start
        self.folder: Path | None = None

    def __enter__(self) -> Answering:
        with suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGTERM, _stop)  # as Ctrl-C: what was started is ended, and how to go on is told
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            try:
                sys.stdout.flush()
            except BrokenPipeError as e:
                self._nobody_listens(e)
        elif isinstance(error, BrokenPipeError):
            self._nobody_listens(error)
        elif isinstance(error, (Exception, KeyboardInterrupt)) and not isinstance(error, (typer.Exit, typer.Abort)):
            self._explain(error)

    def _nobody_listens(self, error: BaseException) -> NoReturn:
        """Whoever read the output has gone: end without a word, and let nothing be flushed at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from error

    def _explain(self, error: BaseException) -> NoReturn:
        from flexray.errors import ConfigError, RunError
        from flexray.report import messages

        screen = console(err=True)
        if isinstance(error, ConfigError):
            messages.wrong(error.problems, screen)
            raise typer.Exit(WRONG_INPUT) from error
        if isinstance(error, KeyboardInterrupt):
            messages.failed(f"Stopped{self.how_to_go_on()}", screen)
            raise typer.Exit(INTERRUPTED) from error
        known = isinstance(error, RunError)
        messages.failed(f"The run failed: {error}" if known else self._unexpected(error), screen)
        if self.verbose:
            messages.traceback(error, screen)
        raise typer.Exit(FAILED) from error

    def how_to_go_on(self) -> str:
        """The end of a sentence."""
        begun = self.folder is not None and (self.folder / self.start).exists()
        return f". Go on with:\n  flexray {self.command} --resume {self.folder}" if begun else " before anything was written."

    def _unexpected(self, error: BaseException) -> str:
        from flexray.report import messages

        seen = messages.keep_traceback(error, self.folder)
        where = f"The traceback is in {seen}" if seen else "Run it again with --verbose to see where"
        return f"Failed unexpectedly: {type(error).__name__}: {error}\n{where}.{'' if not seen else self.how_to_go_on()[1:]}"
