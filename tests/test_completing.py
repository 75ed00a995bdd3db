"""What the shell offers behind the tabulator, asked as a shell asks."""

import json

import pytest
from typer.testing import CliRunner

from flexray.cli import app
from flexray.config import load


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Completes a line: `offered("flexray list me")` gives the words that may stand for its last one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "clients.json").write_text(json.dumps([{"client": "ada"}, {"client": "ali"}, {"client": "ben"}]))

    def ask(line: str) -> list[str]:
        asked = {"_FLEXRAY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return CliRunner().invoke(app, env=asked, prog_name="flexray").output.split()

    return ask


def test_commands_and_options(offered):
    assert offered("flexray si") == ["simulate"]
    assert offered("flexray simulate --res") == ["--resume"]


def test_settings_are_offered_whole(offered):
    assert offered("flexray simulate --set train.opt") == ["train.optimizer=adamw", "train.optimizer=sgd"]
    assert offered("flexray plan --set train.recompute") == ["train.recompute=true", "train.recompute=false"]
    assert offered("flexray compare --set train.batch") == ["train.batch=8"]
    assert offered("flexray compare --set train.private_lr") == ["train.private_lr=null"]
    assert "algorithm.name=fedprox" in offered("flexray sweep --set algorithm.name")


@pytest.mark.parametrize("key", ["evaluation.", "resources.", "data.max", "rounds", "model.", "placement", "seats"])
def test_what_is_offered_is_taken(offered, key):
    found = offered(f"flexray simulate --set {key}")
    assert found
    for text in found:
        load(None, (text,))


def test_kinds_of_things(offered):
    assert offered("flexray list me") == ["metrics"]


def test_clients_of_the_run_that_is_named(offered):
    assert offered("flexray generate run --client a") == ["ada", "ali"]
    assert offered("flexray export run --out x --client b") == ["ben"]
    assert offered("flexray export nowhere --client b") == []
