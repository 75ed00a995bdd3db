"""The command line: parses, calls, prints. Imports are inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Federated fine-tuning of Mixture-of-Experts language models with personal experts, simulated on Ray.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path | None, typer.Argument(help="A YAML file. Without one: the embedded default.", show_default=False)]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130


@app.command()
def simulate(
    config: Config = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default: runs/<time>-<algorithm>-s<seed>.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run folder's path and nothing else.")] = False,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Ray's own output, and tracebacks of failures.")] = False,
) -> None:
    """Run a federated simulation: plan, rounds, scores per client, run folder."""
    with _failures(verbose, out or resume):
        from flexray import api, display
        from flexray.config import load
        from flexray.errors import ConfigError

        if resume and (config or sets or out):
            raise ConfigError(
                "--resume: expected no config, --set or --out beside it, got some; a run goes on as it was started"
            )
        experiment = None if resume else load(config, tuple(sets or ()))
        folder = resume or out or api.new_folder(experiment)
        with display.live(quiet=quiet or as_json) as watch:
            run = api.resume(resume, watch, verbose) if resume else api.simulate(experiment, folder, watch=watch, verbose=verbose)
        if as_json:
            print(display.as_json(run.summary | {"path": str(run.path)}))
        elif quiet:
            print(run.path)
        else:
            display.finished(run)


@app.command()
def plan(config: Config = None, sets: Sets = None, as_json: Json = False) -> None:
    """Show what a run would be, without running it."""
    with _failures():
        from flexray import api, display
        from flexray.config import load

        found = api.make_plan(load(config, tuple(sets or ())))
        print(display.as_json(display.plan_facts(found))) if as_json else display.plan(found)


@app.command()
def partition(
    config: Config = None,
    sets: Sets = None,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("partition.png"),
    as_json: Json = False,
) -> None:
    """Show who gets which rows: a table and a picture."""
    with _failures():
        from flexray import api, display
        from flexray.config import load
        from flexray.report import partition as report

        clients = api.make_plan(load(config, tuple(sets or ()))).clients
        report.draw(clients, out)
        print(display.as_json(report.facts(clients) | {"picture": str(out)})) if as_json else display.clients(clients, out)


@app.command("list")
def list_(kind: Annotated[str | None, typer.Argument(help="algorithms, partitions, families or metrics.")] = None) -> None:
    """List algorithms, partitions, model families and metrics."""
    with _failures():
        from flexray import display, folder
        from flexray.errors import ConfigError, did_you_mean

        kinds = {path.rpartition("/")[2]: path for path in folder.BASES}
        if kind is not None and kind not in kinds:
            raise ConfigError(f"list: expected a kind of thing, got {kind!r}; {did_you_mean(kind, kinds)}")
        display.listing({k: folder.listing(path) for k, path in kinds.items() if kind in (None, k)})


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(help="A YAML recipe, such as configs/tiny.yaml.")],
    out: Annotated[Path, typer.Option(help="The folder of the new model.")],
    sets: Sets = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Ray's own output, and tracebacks of failures.")] = False,
) -> None:
    """Train a base model from scratch on a corpus, through Ray Train."""
    with _failures(verbose):
        from flexray.pretrain import run

        run(config, tuple(sets or ()), out)


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


@contextmanager
def _failures(verbose: bool = False, folder: Path | None = None) -> Iterator[None]:
    """Wrong input exits with 2, a failure with 1, Ctrl-C with 130: one screen on stderr, no traceback unless asked for."""
    from flexray.errors import ConfigError, RunError

    try:
        yield
    except ConfigError as e:
        _leave("Wrong input:\n" + "\n".join(f"  {problem}" for problem in e.problems), WRONG_INPUT)
    except RunError as e:
        if verbose:
            raise
        _leave(f"The run failed.\n  {e}", FAILED)
    except KeyboardInterrupt:
        go_on = f"; go on with `flexray simulate --resume {folder}`" if folder else ""
        _leave(f"Stopped{go_on}.", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as e:
        if verbose:
            raise
        _leave(f"Unexpected failure: {type(e).__name__}: {e}\n  Run it again with --verbose to see where.", FAILED)


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(code)
