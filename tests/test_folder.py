"""The folder is the registry; a file of the user's own is as good as one of ours."""

import pytest

from flexray import folder
from flexray.errors import ConfigError

MINE = """
from dataclasses import dataclass
from flexray.algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
    strength: float = 0.5
"""


@pytest.mark.parametrize("kind", folder.BASES)
def test_every_file_of_a_folder_loads_and_has_a_line(kind):
    names = folder.listing(kind)
    assert names
    for name, line in names.items():
        cls = folder.load(kind, name, "key")
        assert cls.name == name
        assert line.endswith("."), f"{name}: the first line of the file's docstring is what `flexray list` shows"


def test_a_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    cls = folder.load("algorithms", str(file), "algorithm.name")
    assert cls.__name__ == "Mine"
    assert cls.name == str(file)


def test_the_text_that_travelled_wins_over_the_file(tmp_path):
    name = str(tmp_path / "gone.py")
    assert folder.load("algorithms", name, "algorithm.name", {name: MINE})(strength=2).strength == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "exactly one subclass of Algorithm, got none"),
        ("import nothing_of_that_name", "Python code that runs, got ModuleNotFoundError"),
        ("def (", "Python code that runs, got SyntaxError"),
        (MINE + MINE.replace("Mine", "Other"), "exactly one subclass of Algorithm, got Mine, Other"),
    ],
)
def test_a_file_that_does_not_do(tmp_path, text, message):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"algorithm.name: expected .*{message}"):
        folder.load("algorithms", str(file), "algorithm.name")


def test_a_missing_file_and_a_typo():
    with pytest.raises(ConfigError, match=r"algorithm.name: expected a readable file, got './no.py'"):
        folder.load("algorithms", "./no.py", "algorithm.name")
    with pytest.raises(ConfigError, match="did you mean 'fedprox'"):
        folder.load("algorithms", "fedprx", "algorithm.name")
