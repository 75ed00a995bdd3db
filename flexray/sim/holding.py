"""Who may write: locks that go with the process that holds them, however it ends.

What is killed may go on for a while: Ray's processes for seconds, on a cluster for half a minute. Whoever comes after it waits until it
is gone, so that never two write into one run.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from flexray.errors import RunError, expected

LEADER = ".leader"
GONE_SECONDS = 60.0
"""To wait for who was killed; Ray keeps what a lost client of `ray://` has started for 30."""
END_SECONDS = 10.0
"""For a command that is ending to leave its run."""
EVERY = 0.05


@contextmanager
def alone(folder: Path, key: str, what: str = "run", patience: float = 0.0) -> Iterator[None]:
    """Inside, no other process of this machine has the folder, which is made if need be. patience: seconds to wait for it. Raises
    ConfigError about `key`."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        if not _waited(lambda: locked(opened), patience):
            got = f"{folder}, which {_holder(opened)} plays"
            raise expected(key, f"a {what} that is not running", got, "wait for it, or end it")
        yield
    finally:
        os.close(opened)


@contextmanager
def leading(run: Path, patience: float = GONE_SECONDS) -> Iterator[None]:
    """Inside, no other process on any machine leads this run. A file, as locks of folders are not seen by other machines. Raises
    RunError."""
    file, mine = run / LEADER, list[int]()
    if not _waited(lambda: _taken(file, mine), patience):
        raise RunError(f"{file.read_text() or 'another process'} still leads this run: wait until it has ended, or end it")
    try:
        with suppress(OSError):  # a full disk, of which others will tell
            os.truncate(mine[0], 0)
            os.write(mine[0], f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(mine[0])


def gone(files: Iterable[Path], patience: float = GONE_SECONDS) -> bool:
    """Waits until nobody has locked any of these files; whether it is so."""
    return all(_waited(lambda file=file: _is_free(file), patience) for file in files)


def locked(opened: int) -> bool:
    """Takes the lock of an open file or folder, if nobody else has it. Where the file system has no locks, everybody gets it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _waited(done: Callable[[], bool], patience: float) -> bool:
    until = monotonic() + patience
    while not done():
        if monotonic() > until:
            return False
        sleep(EVERY)
    return True


def _taken(file: Path, mine: list[int]) -> bool:
    """Whether the file is locked by us now; `mine` gets it, open."""
    try:
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise RunError(f"{file} could not be written: {e.strerror}") from e
    with suppress(FileNotFoundError):
        if locked(opened) and os.path.samestat(os.fstat(opened), os.stat(file)):  # else whoever had it took it away
            mine.append(opened)
            return True
    os.close(opened)
    return False


def _is_free(file: Path) -> bool:
    try:
        opened = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        return locked(opened)
    finally:
        os.close(opened)


def _holder(opened: int) -> str:
    """By Linux's list of locks: `1: FLOCK ADVISORY WRITE <process> <device>:<inode> 0 EOF`."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{os.fstat(opened).st_ino}"):
                return f"process {words[4]}"
    return "another process"
