"""Weights & Biases, online or (WANDB_MODE=offline) in the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import ClassVar

from flexray.tracker import About, Tracker


class WandB(Tracker):
    """Its own environment variables say where to, such as WANDB_PROJECT (`flexray` if unset) and WANDB_MODE."""

    needs: ClassVar[str] = "wandb"

    def open(self, run: About) -> str:
        self.run = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", "flexray"), name=run.folder.name, dir=str(run.folder),
            config=dict(run.config), id=run.known, resume="allow",
        )  # fmt: skip
        return self.run.id

    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)
