"""The command line: parses, calls, prints. Imports are inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Federated fine-tuning of Mixture-of-Experts language models with personal experts, simulated on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path | None, typer.Argument(help="A YAML file; without one the embedded default.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key, such as train.lr=0.001.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own output, and tracebacks of failures.")]

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


@app.command()
def simulate(
    config: Config = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/TIME-ALGORITHM-SEED by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run folder's path and nothing else.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a federated simulation, from the plan to the scores of every client."""
    with _Answering(verbose) as answering:
        from flexray.config import load
        from flexray.errors import ConfigError

        if resume and (config or sets or out):
            raise ConfigError(
                "--resume: expected no config, --set or --out beside it, got some; a run goes on as it was started"
            )
        if quiet and as_json:
            raise ConfigError("--quiet: expected it without --json, got both; drop one of the two")
        experiment = None if resume else load(config, tuple(sets or ()))
        console = _console(err=as_json, quiet=quiet)
        with console.status("loading"):
            from flexray import api
            from flexray.report import live, messages, scores
        with live.watching(console) as watch:
            if experiment is None:
                answering.folder = resume
                run = api.resume(str(resume), watch, verbose)
            else:
                answering.folder = out or api.new_folder(experiment)
                run = api.simulate(experiment, answering.folder, watch=watch, verbose=verbose)
        console.print(scores.summary(run.summary, console), highlight=False)
        console.print(f"run    {run.path}", soft_wrap=True, highlight=False)
        if quiet or as_json:
            print(messages.as_json({**run.summary, "path": str(run.path)}) if as_json else run.path)


@app.command()
def plan(config: Config = None, sets: Sets = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show what a run would be, without running it."""
    with _Answering(verbose):
        from flexray.config import load

        experiment, console = load(config, tuple(sets or ())), _console(quiet=as_json)
        with console.status("planning"):
            from flexray import api
            from flexray.report import messages
            from flexray.report import plan as report

            found = api.make_plan(experiment)
        report.show(found, console)
        if as_json:
            print(messages.as_json(report.facts(found)))


@app.command()
def partition(
    config: Config = None,
    sets: Sets = None,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("partition.png"),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show who gets which rows, as a table and a picture."""
    with _Answering(verbose):
        from flexray.config import load

        experiment, console = load(config, tuple(sets or ())), _console(quiet=as_json)
        with console.status("dealing"):
            from flexray.report import messages
            from flexray.report import partition as report

            report.check_picture(out)
            dealt = report.deal(experiment)
            report.draw(dealt.clients, out)
        report.show(dealt, console)
        console.print(f"picture: {out}", soft_wrap=True, highlight=False)
        if as_json:
            print(messages.as_json({**report.facts(dealt), "picture": str(out)}))


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="algorithms, partitions, families or metrics; all of them by default.")
    ] = None,
) -> None:
    """List algorithms, partitions, model families and metrics."""
    with _Answering():
        from flexray import folder
        from flexray.errors import did_you_mean, expected
        from flexray.report import messages

        kinds = {path.rpartition("/")[2]: path for path in folder.BASES}
        if kind is not None and kind not in kinds:
            raise expected("list", "a kind of thing", kind, did_you_mean(kind, kinds))
        messages.listing({k: folder.listing(path) for k, path in kinds.items() if kind in (None, k)}, _console())


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(help="A YAML recipe, such as configs/tiny.yaml.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the new model.", show_default=False)],
    sets: Sets = None,
    workers: Annotated[int | None, typer.Option(help="Ray Train's workers; the same as --set resources.workers=N.")] = None,
    verbose: Verbose = False,
) -> None:
    """Train a base model from scratch on a corpus, through Ray Train."""
    with _Answering(verbose):
        from flexray.pretrain import run

        more = () if workers is None else (f"resources.workers={workers}",)
        run(config, (*(sets or ()), *more), out)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"flexray {version('flexray')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options of the command line itself."""


def _console(err: bool = False, quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=err, quiet=quiet)


class _Answering:
    """What went wrong becomes one screen on stderr and an exit code; `folder` is the run's, once it is known."""

    def __init__(self, verbose: bool = False):
        self.verbose, self.folder = verbose, None

    def __enter__(self) -> _Answering:
        self.folder: Path | None = None
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

        console = _console(err=True)
        if isinstance(error, ConfigError):
            messages.wrong(error.problems, console)
            raise typer.Exit(WRONG_INPUT) from error
        if isinstance(error, KeyboardInterrupt):
            messages.failed(f"Stopped{self._how_to_go_on()}", console)
            raise typer.Exit(INTERRUPTED) from error
        known = isinstance(error, RunError)
        messages.failed(f"The run failed: {error}" if known else self._unexpected(error), console)
        if self.verbose:
            messages.traceback(error, console)
        raise typer.Exit(FAILED) from error

    def _how_to_go_on(self) -> str:
        begun = self.folder is not None and (self.folder / "config.yaml").exists()
        return f". Go on with:\n  flexray simulate --resume {self.folder}" if begun else " before anything was written."

    def _unexpected(self, error: BaseException) -> str:
        from flexray.report import messages

        seen = messages.keep_traceback(error, self.folder)
        where = f"The traceback is in {seen}" if seen else "Run it again with --verbose to see where"
        return f"Failed unexpectedly: {type(error).__name__}: {error}\n{where}.{'' if not seen else self._how_to_go_on()[1:]}"
