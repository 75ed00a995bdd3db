"""A run folder made again from its checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from flexray.errors import ConfigError, expected
from flexray.sim.checkpoint import LIST, NO_LIST, PRIVATE, read_list, round_of
from flexray.sim.place import Place


def is_checkpoint(where: str) -> bool:
    """Whether there are checkpoints of a run."""
    if "://" not in where and not Path(where).is_dir():
        return False
    return any(name.startswith(LIST) for name in Place.of(where, "--resume").names())


def fetch(where: str, out: Path) -> int:
    """Makes the run folder `out` from the newest checkpoint that is whole; gives its round. Raises ConfigError where there is none, and
    leaves nothing behind then."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise expected("--out", "a new or empty folder", str(out), "name another")
    place, damaged, temporary = Place.of(where, "--resume"), [], out.with_name(f".{out.name}.fetched")
    try:
        for name in reversed([n for n in place.names() if n.startswith(LIST)]):
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                _fetched(place, read_list(place.read(name)), temporary)
            except (OSError, *NO_LIST) as e:
                damaged.append(f"{name} ({str(e).splitlines()[0]})")
                continue
            _put_private(temporary)
            out.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, out)
            return round_of(name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = "; ".join(damaged) or "none there"
    raise ConfigError(f"--resume: expected a whole checkpoint in {where!r}, got {found}; name another")


def _put_private(run: Path) -> None:
    """Private state goes where the run's config wants it, if not into the run folder."""
    wanted = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["storage"]["private"]
    if wanted is None or not (run / PRIVATE).exists():
        return
    target = Path(wanted).expanduser()
    if target.exists() and any(target.iterdir()):
        raise expected(
            "storage.private", "a new or empty folder", wanted, "move away what is left there of the run that was lost"
        )
    shutil.copytree(run / PRIVATE, target, dirs_exist_ok=True)
    shutil.rmtree(run / PRIVATE)


def _fetched(place: Place, files: Mapping[str, tuple[str, int]], out: Path) -> None:
    for name, (digest, _) in files.items():
        path, own = out / name, name.startswith(PRIVATE)
        if ".." in path.parts or Path(name).is_absolute():
            raise ValueError(f"{name} is no file of a run")
        path.parent.mkdir(mode=0o700 if own else 0o777, parents=True, exist_ok=True)
        if place.get(f"files/{digest}", path, 0o600 if own else 0o666) != digest:
            raise ValueError(f"files/{digest}, which is {name}, was changed")
