"""The command line: parses, calls, prints. Imports are inside the commands, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flexray.answering import FAILED, Address, Answering, Config, Json, Sets, Verbose, all_sets
from flexray.answering import console as new_console
from flexray.commands import looking, schema, serving

app = typer.Typer(
    help="Federated fine-tuning of Mixture-of-Experts language models with personal experts, simulated on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def simulate(
    config: Config = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/TIME-ALGORITHM-SEED by default.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with the run in this folder, or with these checkpoints of one.")
    ] = None,
    address: Address = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run folder's path and nothing else.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a federated simulation, from the plan to the scores of every client."""
    with Answering(verbose) as answering:
        from flexray.config import load
        from flexray.errors import ConfigError

        if resume and (config or sets):
            raise ConfigError("--resume: expected no config or --set beside it, got some; a run goes on as it was started")
        if quiet and as_json:
            raise ConfigError("--quiet: expected it without --json, got both; drop one of the two")
        experiment = None if resume else load(config, all_sets(sets, address))
        console = new_console(err=as_json, quiet=quiet)
        with console.status("loading"):
            from flexray import api
            from flexray.report import live, messages, scores
        with live.watching(console) as watch:
            if experiment is None:
                answering.folder = api.opened(str(resume), out, address)
                run = api.resume(answering.folder, watch, verbose, address=address)
            else:
                answering.folder = out or api.new_folder(experiment)
                run = api.simulate(experiment, answering.folder, watch=watch, verbose=verbose)
        console.print(scores.summary(run.summary, console), highlight=False)
        console.print(f"run    {run.path}", soft_wrap=True, highlight=False)
        if quiet or as_json:
            print(messages.as_json({**run.summary, "path": str(run.path)}) if as_json else run.path)


@app.command()
def compare(
    config: Annotated[Path | None, typer.Argument(help="A YAML file with a section `compare`.", show_default=False)] = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="The comparison's folder; runs/TIME-compare by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the comparison in this folder.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs side by side; 1: one by one, each on all of the cluster.")] = None,
    address: Address = None,
    partial: Annotated[bool, typer.Option("--partial", help="With --resume: run nothing, show what is finished.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run methods × seeds on one config, and compare them with paired tests."""
    with Answering(verbose, "compare", "compare.yaml") as answering:
        from flexray.comparison.spec import asked_for

        _check_resume(resume, out, partial, bool(config or sets or address or jobs))
        spec = asked_for(config, all_sets(sets, address), resume)
        console = new_console(err=as_json)
        with console.status("loading"):
            from flexray import compare as runner
            from flexray.report import comparing as live
            from flexray.report import comparison as report
            from flexray.report import messages
        answering.folder = resume or out or runner.new_folder()
        if partial:
            made = runner.so_far(spec, answering.folder)
        else:
            with live.watching(spec, console) as watch:
                going = resume is not None
                made = runner.compare(spec, answering.folder, resume=going, jobs=jobs, watch=watch, verbose=verbose)
        report.show(made, console)
        console.print(f"tables {answering.folder}/table.md .csv .tex", soft_wrap=True, highlight=False)
        if as_json:
            print(messages.as_json(made.facts()))
        if failed := len(made.failures):
            _some_failed(answering, f"{failed} of {made.runs} runs")


@app.command()
def sweep(
    config: Annotated[Path | None, typer.Argument(help="A YAML file with a section `sweep`.", show_default=False)] = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; runs/TIME-sweep by default.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the sweep in this folder; failed trials are tried again.")
    ] = None,
    address: Address = None,
    partial: Annotated[bool, typer.Option("--partial", help="With --resume: run nothing, show what is finished.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Run nothing, show the trials and what each takes.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run trials over any keys of a config, side by side, and show what they do."""
    with Answering(verbose, "sweep", "sweep.yaml") as answering:
        from flexray.sweeping.spec import asked_for

        _check_resume(resume, out, partial, bool(config or sets or address or dry_run))
        spec, console = asked_for(config, all_sets(sets, address), resume), new_console(err=as_json)
        with console.status("loading"):
            from flexray import sweep as runner
            from flexray.report import messages, sweep_table
            from flexray.sweeping.results import gathered
        if dry_run:
            sweep_table.plan(*runner.planned(spec, resume, verbose), console, as_json)
            raise typer.Exit
        answering.folder = resume or out or runner.new_folder()
        if partial:
            made = gathered(spec, answering.folder)
        else:
            with sweep_table.watching(spec, console) as watch:
                made = runner.sweep(spec, answering.folder, resume=resume is not None, watch=watch, verbose=verbose)
        sweep_table.show(made, console)
        console.print(f"sweep  {answering.folder}  (best.yaml, rounds.parquet)", soft_wrap=True, highlight=False)
        if as_json:
            print(messages.as_json(made.facts()))
        if failed := len(made.failures):
            _some_failed(answering, f"{failed} of {made.spec.most} trials")


def _check_resume(resume: Path | None, out: Path | None, partial: bool, more: bool) -> None:
    from flexray.errors import ConfigError

    if (resume and out) or (partial and (more or not resume)):
        raise ConfigError(
            "--resume: expected it without --out, and nothing but it with --partial, got otherwise; drop the rest"
        )


def _some_failed(answering: Answering, which: str) -> NoReturn:
    from flexray.report import messages

    messages.failed(f"{which} failed{answering.how_to_go_on()}", new_console(err=True))
    raise typer.Exit(FAILED)


looking.add(app)
serving.add(app)
schema.add(app)


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(help="A YAML recipe, such as configs/tiny.yaml.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the new model.", show_default=False)],
    sets: Sets = None,
    workers: Annotated[int | None, typer.Option(help="Ray Train's workers; the same as --set resources.workers=N.")] = None,
    verbose: Verbose = False,
) -> None:
    """Train a base model from scratch on a corpus, through Ray Train."""
    with Answering(verbose):
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
