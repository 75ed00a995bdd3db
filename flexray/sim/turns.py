"""Around each group's turn in a process that holds clients: what goes wrong is told as theirs, and no turn lasts for ever.

Of an actor that is found dead two files tell more: whose turn it was, and, if that lasted too long, where it was at that time.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from traceback import extract_tb

import numpy as np

from flexray.errors import ConfigError, RunError
from flexray.sim.failure import Failed
from flexray.sim.holding import locked
from flexray.sim.planning.gauge import give_back
from flexray.sim.schedule import Group
from flexray.sim.wire import LeakError

OURS = str(Path(__file__).parents[1])
MARK = 4096
"""Bytes of a mark, more than the numbers of all that sit together."""
SLACK = 0.25
"""A turn may last longer by such a share: setting the alarm again and again takes time, too."""


class NotFinite(FloatingPointError):
    """The loss of some seats is no number. seats: which."""

    def __init__(self, seats: list[int]):
        super().__init__("the training loss is not a finite number; lower train.lr, or set train.clip")
        self.seats = seats


class Turns:
    """tells: who failed is collected, else raised. file: where an actor tells whose turn it is; without one a turn has no end, as nobody
    would start the process anew."""

    def __init__(self, names: Sequence[str], tells: bool = False, file: Path | None = None):
        self.names, self.tells = names, tells
        self.failed: list[Failed] = []
        self._mark = self._late = None
        self._armed = 0.0, 0.0  # when, and for how many seconds
        if file is not None:
            self._mark, self._late = (os.open(f, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for f in (file, _late(file)))
            locked(self._mark)  # until this process is dead

    def start(self) -> list[Failed]:
        """A task begins; gives the list into which comes who fails in it."""
        self.failed = []
        return self.failed

    @contextmanager
    def turn(self, round: int, group: Group, seconds: float | None, leaf: int = -1) -> Iterator[None]:
        """A group's turn, which each of them may make so long. What is not theirs alone is raised as a RunError."""
        self._begin(group, seconds)
        try:
            yield
            return
        except (ConfigError, RunError):
            raise
        except Exception as e:
            if not self.tells or isinstance(e, LeakError):
                who = ", ".join(self.names[c] for c in group)
                raise RunError(f"round {round}, client {who}: {told(e)}") from e
            blamed = [(group[k],) for k in e.seats] if isinstance(e, NotFinite) else [group]
            self.failed += [Failed(clients, told(e), leaf=leaf) for clients in blamed]
        give_back()

    def end(self) -> tuple[Failed, ...]:
        """The task is over: who failed."""
        if self._armed[1]:
            faulthandler.cancel_dump_traceback_later()
            self._armed = 0.0, 0.0
        self._say("")
        return tuple(self.failed)

    def _begin(self, group: Group, seconds: float | None) -> None:
        self._say(",".join(map(str, group)))
        if seconds is None or self._late is None:
            return
        now, wanted = perf_counter(), seconds * len(group)
        set_at, lasts = self._armed
        if not wanted <= set_at + lasts - now <= wanted * (1 + SLACK):
            faulthandler.dump_traceback_later(wanted * (1 + SLACK), file=self._late, exit=True)
            self._armed = now, wanted * (1 + SLACK)

    def _say(self, text: str) -> None:
        if self._mark is not None:
            os.pwrite(self._mark, f"{text}\n".encode(), 0)


def told(e: BaseException) -> str:
    """An error in one line: what, and where in a file that is not ours, if it went through one."""
    theirs = [frame for frame in extract_tb(e.__traceback__) if not frame.filename.startswith(OURS)]
    own = [f for f in theirs if "site-packages" not in f.filename and not f.filename.startswith("<frozen")]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    text = str(e).strip().split("\n")[0]
    name = FloatingPointError.__name__ if isinstance(e, NotFinite) else type(e).__name__
    return f"{name}: {text}{where}" if text else f"{name}{where}"


def turn_of(file: Path) -> Group:
    """Whose turn it was in a process that is dead; nobody's where that is not known."""
    with suppress(OSError, ValueError):
        text = file.read_bytes()[:MARK].split(b"\n")[0].decode()
        return tuple(int(number) for number in text.split(",")) if text else ()
    return ()


def where_late(file: Path) -> str | None:
    """Where it was when its turn had lasted too long; None if it died of something else."""
    with suppress(OSError):
        lines = _late(file).read_text(encoding="utf-8", errors="replace").splitlines()
        frames = [line.strip().removeprefix("File ") for line in lines if line.strip().startswith("File ")]
        return (
            next((f for f in frames if OURS not in f and "/lib/" not in f), frames[0]) if frames else ("?" if lines else None)
        )
    return None


def check_finite(losses: np.ndarray) -> None:
    """Raises NotFinite for seats whose loss is no number."""
    if not np.isfinite(losses).all():
        raise NotFinite(np.flatnonzero(~np.isfinite(losses)).tolist())


def _late(file: Path) -> Path:
    return file.with_name(f"{file.name}.late")
