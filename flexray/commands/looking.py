"""Commands that show: report on runs; plan, partition and list before one. They parse, call and print, as those of `cli.py` do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexray import completing
from flexray.answering import Answering, Config, Json, Sets, Verbose
from flexray.answering import console as new_console


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or folders of runs, which are overlaid; or a sweep's.", show_default=False),
    ],
    out: Annotated[Path | None, typer.Option(help="The report's folder; RUN/report by default, of several ./report.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the runs are finished; the page reloads itself.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show runs, or a sweep, as one HTML page that needs no network, with every figure as PNG and SVG."""
    with Answering(verbose):
        console = new_console(err=as_json)
        with console.status("drawing"):
            from flexray.report import following, messages

            place = out or (runs[0] / "report" if len(runs) == 1 else Path("report"))
            if follow:
                made = following.follow(runs, place, lambda told: console.print(told, highlight=False))
            else:
                made, told, _ = following.made(runs, place)
                console.print(told, highlight=False)
        console.print(f"report {made}", soft_wrap=True, highlight=False)
        if as_json:
            print(messages.as_json({"page": str(made), "figures": sorted(f.name for f in place.glob("*.svg"))}))


def plan(
    config: Config = None,
    sets: Sets = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Measure nothing: at once, but without the time.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what a run would be, without running it."""
    with Answering(verbose):
        from flexray.config import load

        experiment, console = load(config, tuple(sets or ())), new_console(quiet=as_json)
        with console.status("planning"):
            from flexray import api
            from flexray.report import messages
            from flexray.report import plan as report

            found = api.make_plan(experiment, "nothing" if no_measure else "forecast")
        report.show(found, console)
        if as_json:
            print(messages.as_json(report.facts(found)))


def partition(
    config: Config = None,
    sets: Sets = None,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("partition.png"),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show who gets which rows, as a table and a picture."""
    with Answering(verbose):
        from flexray.config import load

        experiment, console = load(config, tuple(sets or ())), new_console(quiet=as_json)
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


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="algorithms, partitions, families, metrics, trackers or plots; all of them by default.",
            autocompletion=completing.kinds,
        ),
    ] = None,
) -> None:
    """List algorithms, partitions, model families, metrics, trackers and the report's plots."""
    with Answering():
        from flexray import folder
        from flexray.errors import did_you_mean, expected
        from flexray.report import messages

        kinds = {path.rpartition("/")[2]: path for path in folder.BASES}
        if kind is not None and kind not in kinds:
            raise expected("list", "a kind of thing", kind, did_you_mean(kind, kinds))
        messages.listing({k: folder.listing(path) for k, path in kinds.items() if kind in (None, k)}, new_console())


def add(app: typer.Typer) -> None:
    """Makes them commands of the app."""
    for command in (report, plan, partition):
        app.command()(command)
    app.command("list")(list_)
