"""Wrong input to export, generate, merge and join: one screen, exit code 2, nothing written."""

import json
import shutil

import pytest

from flexray.errors import ConfigError
from flexray.serve.finished import open_run
from tests.serve.conftest import ROWS, call, files

FILES = {
    "short.csv": (
        b"instruction,output\na,b\n",
        "--data: expected at least one train, valid and test row, got train 0, valid 0",
    ),
    "one.jsonl": (
        json.dumps(ROWS[0]).encode(),
        "--data: expected at least one train, valid and test row, got train 0, valid 0, ",
    ),
    "other.csv": (b"question,output\na,b\n", "--data: expected a column of other.csv (it has output, question), got 'instruc"),
    "bad.jsonl": (b'{"instruction": "a", "output": "b"}\n{broken\n', "--data: expected valid JSON in bad.jsonl, line 2"),
    "latin.jsonl": (
        '{"instruction": "ö"}'.encode("latin-1"),
        "--data: expected UTF-8 text in latin.jsonl, line 1, got byte 0xf6",
    ),
    "empty.jsonl": (b"", "--data: expected rows, got none in empty.jsonl"),
    "rows.txt": (b"", "--data: expected a file ending in .jsonl"),
}
JOIN = {
    "--name client-0": "--name: expected a name that no client of the run has",
    "--name shared\xa0only": "--name: expected at most 100 printable characters",
    "--steps 0": "--steps: expected at least 1",
}
OTHERS = {
    "export RUN --client client-7 --out OUT": "did you mean 'client-",
    "export OUT --client client-0 --out OUT": "run: expected the folder of a run",
    "export ABOVE --base --out OUT": "without config.yaml'; did you mean '",
    "export RUN --client client-0 --base --out OUT": "got '--client and --base'",
    "export RUN --base --out FILE/out": "--out: expected a folder that can be written to, got",
    "generate RUN hello": "--client: expected a client's name, --all, --shared or --base",
    "generate RUN --base": "prompt: expected a text, got ['']",
    "generate RUN LONG --base": "prompt: expected fewer than the model's 1024 tokens",
    "generate RUN hello --base --temperature -1": "--temperature: expected 0 (greedy) or more",
    "merge RUN --clients client-0,cliennt-1 --out OUT": "did you mean 'client-1'?",
}


@pytest.fixture
def refused(finished):
    """refused(arguments, wanted): the command says so, and leaves the folder of the run, RUN, as it was."""
    run = finished("ditto").path
    before = set(files(run))

    def check(arguments, wanted):
        result = call(*(run if word == "RUN" else word for word in arguments))
        assert result.exit_code == 2, (arguments, result.output)
        assert wanted in " ".join(result.stderr.split()) and len(result.stderr.splitlines()) < 10, result.stderr
        assert set(files(run)) == before

    return check


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_join(refused, tmp_path, name):
    content, wanted = FILES[name]
    (tmp_path / name).write_bytes(content)
    refused(["join", "RUN", "--data", tmp_path / name], wanted)


def test_a_newcomer_that_cannot_join(refused, file, tmp_path):
    for more, wanted in JOIN.items():
        refused(["join", "RUN", "--data", file, *more.split(" ")], wanted)
    refused(["join", "RUN", "--data", file, "--name", "shared only"], "--name: expected a name that no client of the run")
    refused(["join", "RUN", "--data", tmp_path / "none.csv"], "--data: expected a file or folder of rows")


def test_other_commands(refused, finished, file, tmp_path):
    meant = {
        "ABOVE": finished("ditto").path.parent,
        "OUT": tmp_path / "out",
        "LONG": "word " * 1100,
        "FILE/out": file / "x",
    }
    for line, wanted in OTHERS.items():
        refused([meant.get(word, word) for word in line.split(" ")], wanted)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_refused(finished, tmp_path):
    (tmp_path / "config.yaml").write_text("rounds: 2\n")
    with pytest.raises(
        ConfigError, match=r"run: expected a finished run, got '.* without summary.json'; finish it: `flexray simulate --resume"
    ):
        open_run(tmp_path)


def test_a_run_that_names_its_data_from_elsewhere_says_so(finished, tmp_path):
    path = shutil.copytree(finished("fedavg").path, tmp_path / "run")
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("path: builtin", "path: ./rows.jsonl"))
    with pytest.raises(ConfigError, match=r"data.path: .*; the run needs it: put it back"):
        open_run(path)
