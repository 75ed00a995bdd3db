"""The command that prints the config's schema: for editors as JSON, to read as Markdown."""

from __future__ import annotations

from typing import Annotated

import typer

from flexray.answering import Answering


def schema(
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Of what `flexray pretrain` reads, instead of a run's config.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/configuration.md.")] = False,
) -> None:
    """Print the JSON schema of a config, for editors: every key, what may stand there, what it means."""
    with Answering():
        from flexray.errors import ConfigError
        from flexray.reference import page
        from flexray.reference import schema as made
        from flexray.report import messages

        if recipe and markdown:
            raise ConfigError("--recipe: expected it without --markdown, got both; the page has the recipe too")
        print(page.markdown() if markdown else messages.as_json(made.recipe() if recipe else made.config()))


def add(app: typer.Typer) -> None:
    """Makes it a command of the app."""
    app.command()(schema)
