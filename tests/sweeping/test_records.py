"""A sweep's folder is one process's at a time."""

import subprocess
import sys
from time import monotonic

import pytest

from flexray.errors import ConfigError
from flexray.sweeping.records import alone

HOLD = """
import sys, time
from pathlib import Path
from flexray.sweeping.records import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_process_has_is_refused_until_that_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="--resume: expected a sweep that is not running"), alone(tmp_path):
        raise AssertionError("two have it")
    process.kill()  # nothing tidies up after it
    process.communicate()
    began = monotonic()
    with alone(tmp_path, 10):
        assert monotonic() - began < 5
    with alone(tmp_path):
        assert list(tmp_path.iterdir()) == []
