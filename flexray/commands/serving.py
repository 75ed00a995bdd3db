"""Commands on a finished run: export, generate, merge, join. They parse, call and print, as those of `cli.py` do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexray import completing
from flexray.answering import Answering, Json, Verbose
from flexray.answering import console as new_console

Folder = Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)]


def export(
    run: Folder,
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    client: Annotated[
        str | None, typer.Option(help="Whose model.", show_default=False, autocompletion=completing.clients)
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="The shared model alone.")] = False,
    base: Annotated[bool, typer.Option("--base", help="The frozen base.")] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="As an adapter in PEFT's format, where that can express it.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a client's model as a folder that transformers loads, without flexray."""
    with Answering(verbose):
        console = new_console(quiet=as_json)
        with console.status("exporting"):
            from flexray.report import messages, serving
            from flexray.serve import export as exporting
            from flexray.serve.finished import open_run

            wanted = exporting.asked_for(out, client, shared, base)
            made = exporting.export(open_run(run), out, client, wanted, adapter)
        serving.show(serving.exported(made), console)
        if as_json:
            print(messages.as_json({"path": str(made.path), "kind": made.kind, "bytes": made.bytes, "load": made.how}))


def generate(
    run: Folder,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to ask, in quotes; one or several. `-`, or nothing: one from standard input.", show_default=False
        ),
    ] = None,
    clients: Annotated[
        list[str] | None,
        typer.Option("--client", help="Whose model; may be given several times.", autocompletion=completing.clients),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="The models of all clients.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="The shared model too.")] = False,
    base: Annotated[bool, typer.Option("--base", help="The frozen base too.")] = False,
    context: Annotated[str, typer.Option("--input", help="The row's input, beside the prompt.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="0: the likeliest answer; above: by chance.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the chance.")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask the models of a run, side by side."""
    with Answering(verbose):
        console = new_console(quiet=as_json)
        with console.status("asking"):
            from flexray.report import messages, serving
            from flexray.serve import generate as asking
            from flexray.serve.finished import open_run

            how = asking.Asking(context, max_new_tokens, temperature, seed)
            asked = asking.read(prompts or [])
            opened = open_run(run)
            answers = asking.generate(opened, asked, asking.models(opened, clients or (), every, shared, base), how)
        serving.show(serving.answers(answers), console)
        if as_json:
            print(messages.as_json([{"prompt": a.prompt, "model": a.model, "answer": a.text} for a in answers]))


def merge(
    run: Folder,
    clients: Annotated[
        list[str],
        typer.Option(help="Who shares their experts: a,b,c; may be given several times.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """One model with the private experts of several clients, routed by their gates, scored on every client's rows."""
    with Answering(verbose):
        console = new_console(quiet=as_json)
        with console.status("merging"):
            from flexray.report import messages, serving
            from flexray.serve import merge as merging
            from flexray.serve.export import check_out
            from flexray.serve.finished import open_run

            check_out(out)
            opened = open_run(run)
            made = merging.merge(opened, merging.listed(opened, clients), out)
        serving.show(serving.merged(made), console)
        serving.show(serving.exported(made.exported), console)
        if as_json:
            print(messages.as_json({"path": str(out), "clients": list(made.clients), "scores": made.scores}))


def join(
    run: Folder,
    data: Annotated[Path, typer.Option(help="The newcomer's rows, of the form of the run's data.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="The newcomer's name; the file's by default.", show_default=False)] = None,
    steps: Annotated[
        int | None, typer.Option(help="Local steps; by default as many as the others took.", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Anew, over one of the same name.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """A new client joins a finished run: it tunes its own part, and nobody else trains again."""
    with Answering(verbose):
        console = new_console(quiet=as_json)
        with console.status("joining"):
            from flexray.report import messages, serving
            from flexray.serve import join as joining

            made = joining.join(run, data, name, steps, again)
        serving.show(serving.joined(made), console)
        if as_json:
            print(messages.as_json({"name": made.name, "path": str(made.path), "steps": made.steps, "scores": made.scores}))


def add(app: typer.Typer) -> None:
    """Makes them commands of the app."""
    for command in (export, generate, merge, join):
        app.command()(command)
