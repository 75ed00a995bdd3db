"""What is asked at the command line, and how answers read there."""

import json

from typer.testing import CliRunner

from flexray.cli import app
from flexray.report import serving
from flexray.serve import generate as asking


def test_a_prompt_comes_from_standard_input(finished):
    path = str(finished("fedavg").path)
    arguments = ["generate", path, "--base", "--json", "--max-new-tokens", "1"]
    for more, wanted in (([], ["Who\nis it?"]), (["What?", "-"], ["What?", "Who\nis it?"])):
        done = CliRunner().invoke(app, [*arguments, *more], input="Who\nis it?\n")
        assert [a["prompt"] for a in json.loads(done.stdout)] == wanted


def test_long_prompts_and_answers_stay_readable(monkeypatch):
    from rich.console import Console

    console = Console(width=80, record=True)
    given = [asking.Answer("why " * 500, name, "because " * 40) for name in ("client-0 " * 10, "frozen base")]
    serving.show(serving.answers(given), console)
    lines = console.export_text().splitlines()
    assert len(lines) < 32 and max(map(len, lines)) <= 80 and sum(line.count("because") for line in lines) == 80
