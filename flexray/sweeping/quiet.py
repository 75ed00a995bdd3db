"""Keeps what Ray says of its own accord out of what a sweep prints."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run folders have it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep at once: its folder is whole at any time
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most rounds are not scored
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Tune's own, by its environment."""


@contextmanager
def settings(storage: Path, verbose: bool) -> Iterator[None]:
    """Tune as it should be here: quiet, and with its own notes in a folder that goes when the block ends."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(level if verbose else logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(storage, ignore_errors=True)
