"""TensorBoard: event files in the run folder, in tensorboard/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flexray.tracker import About, Tracker


class TensorBoard(Tracker):
    """Each start of a run writes a file of its own; TensorBoard reads them as one."""

    needs: ClassVar[str] = "tensorboardX"

    def open(self, run: About) -> None:
        from tensorboardX import SummaryWriter

        folder = run.folder / "tensorboard"
        before = len(
            list(folder.glob("*"))
        )  # files are named by the second: one that goes on at once must not write over the last
        self.writer = SummaryWriter(str(folder), write_to_disk=True, filename_suffix=f".{before}")

    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, finished: bool) -> None:
        self.writer.close()
