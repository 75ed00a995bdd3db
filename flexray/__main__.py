"""`python -m flexray`."""

from flexray.cli import app

app()
