"""Where rows come from: the built-in corpus, a file, a folder, a saved `datasets` folder, or the hub."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flexray.data.options import Data
from flexray.data.readers import READERS, Row, check, saved_dataset
from flexray.errors import ConfigError, did_you_mean

SPLITS = ("train", "valid", "test")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "eval"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
BUILTIN_CLIENTS = 8
SUFFIXES = ", ".join(READERS)


@dataclass(frozen=True)
class Piece:
    """One file's (or data set's) rows, all of one split; `read` starts over at every call.

    `stem` is what is left of a file's name without its split word; rows of a folder carry it as their column `file`.
    """

    split: str
    where: str
    read: Callable[[], Iterator[Row]]
    stem: str | None = None


@dataclass(frozen=True)
class Source:
    """All pieces of a data set. `fingerprint` changes with its content. `left_aside`: files of no split."""

    fingerprint: str
    pieces: tuple[Piece, ...]
    left_aside: tuple[str, ...] = ()


def find(data: Data, seed: int, clients: int | None) -> Source:
    """What `data.path` means. Reads the files' bytes, but no row yet."""
    try:
        return _find(data, seed, clients)
    except OSError as e:  # a name too long, a folder that is closed to us
        got = f"{data.path!r} ({e.strerror or e})"
        raise ConfigError(f"data.path: expected a file or folder, got {got}; check the path and its permissions") from None


def _find(data: Data, seed: int, clients: int | None) -> Source:
    path = Path(os.path.expanduser(data.path))
    local = data.path == "builtin" or path.exists()
    if local and data.subset is not None:
        raise ConfigError(f"data.subset: expected none with {data.path!r}, got {data.subset!r}; it is for data sets of the hub")
    if data.path == "builtin":
        return _builtin(seed, BUILTIN_CLIENTS if clients is None else clients)
    if path.is_file():
        return _file(path)
    if path.is_dir():
        saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        return _saved(path) if saved else _folder(path)
    if path.exists() or path.is_symlink():
        what = "something else" if path.exists() else "a link that leads nowhere"
        raise ConfigError(f"data.path: expected a file or folder, got {what} at {str(path)!r}; check the path")
    if _looks_like_path(data.path):
        raise _missing(path)
    return _hub(data.path, data.subset)


def split_of(name: str) -> str | None:
    """The split that a file's or data set's name tells, by whole words: `dolly_train`, `devSet`, `test-00000-of-00001`."""
    words = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    return next((SPLIT_WORDS[w] for w in reversed(words) if w in SPLIT_WORDS), None)


def _builtin(seed: int, clients: int) -> Source:
    from flexray.data import builtin

    splits = builtin.rows(seed, clients)
    content = hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()
    pieces = tuple(Piece(s, f"builtin {s}", partial(_listed, f"builtin {s}", rows)) for s, rows in splits.items())
    return Source(f"builtin {seed} {clients} {content}", pieces)


def _listed(where: str, rows: list[dict[str, Any]]) -> Iterator[Row]:
    return ((f"{where}, row {i}", row) for i, row in enumerate(rows, start=1))


def _file(path: Path) -> Source:
    if path.suffix.lower() not in READERS:
        raise ConfigError(f"data.path: expected a file ending in {SUFFIXES}, got {path.name!r}; convert it")
    check(path)
    return Source(_digest(path), (_piece("train", path),))


def _folder(path: Path) -> Source:
    files = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in READERS)
    if not files:
        folders = sorted(f.name for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
        mend = f"choose one of its folders: {', '.join(folders[:10])}" if folders else "put some there"
        raise ConfigError(f"data.path: expected a folder with files ending in {SUFFIXES}, got none in {str(path)!r}; {mend}")
    splits = {f: split_of(f.stem) for f in files}
    named = "train" in splits.values()
    chosen = {f: split or "train" for f, split in splits.items() if split or not named}
    if "train" not in chosen.values():
        names = ", ".join(f.name for f in files)
        raise ConfigError(f"data.path: expected a file with `train` in its name, got {names}; rename the one to train on")
    for file in chosen:
        check(file)
    pieces = tuple(_piece(split, f, _stem(f)) for f, split in chosen.items())
    digest = " ".join(f"{p.split} {p.stem} {_digest(f)}" for p, f in zip(pieces, chosen, strict=True))
    return Source(digest, pieces, tuple(f.name for f in files if f not in chosen))


def _piece(split: str, path: Path, stem: str | None = None) -> Piece:
    return Piece(split, path.name, partial(READERS[path.suffix.lower()], path), stem)


def _stem(path: Path) -> str:
    """The file's name without split words and shard numbers; the whole stem if nothing is left."""
    words = [w for w in re.split(r"[-_.\s]+", path.stem) if split_of(w) is None and not re.fullmatch(r"\d+|of", w)]
    return "_".join(words) or path.stem


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as f:
            return f"{path.suffix.lower()} {hashlib.file_digest(f, 'sha256').hexdigest()}"
    except OSError as e:
        raise ConfigError(
            f"data.path: expected a readable file, got {str(path)!r} ({e.strerror}); check its permissions"
        ) from None


def _saved(path: Path) -> Source:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as e:  # whatever datasets or pyarrow meet in a broken folder
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise ConfigError(
            f"data.path: expected a folder saved by datasets, got {str(path)!r} ({reason}); save it again"
        ) from None
    files = sorted(f for f in path.rglob("*") if f.is_file())
    return _datasets(loaded, path.name, " ".join(f"{f.relative_to(path)} {_digest(f)}" for f in files))


def _hub(name: str, subset: str | None) -> Source:
    near = did_you_mean(name, ["builtin", *(f.name for f in Path().iterdir())])
    if "/" not in name and near.startswith("did you"):
        raise ConfigError(f"data.path: expected builtin, a file, a folder or a data set of the hub, got {name!r}; {near}")
    import datasets

    try:
        loaded = datasets.load_dataset(name, subset)
    except Exception as e:  # no such data set, no network, a subset to choose, broken files: datasets raises many kinds
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise ConfigError(
            f"data.path: expected builtin, a file, a folder or a data set of the hub, got {name!r} ({reason}); "
            "check the id (and data.subset if it has several parts), or give a path to data on this machine"
        ) from None
    parts = loaded.values() if isinstance(loaded, dict) else [loaded]
    return _datasets(loaded, name, " ".join(sorted(part._fingerprint for part in parts)))


def _datasets(loaded: Any, where: str, fingerprint: str) -> Source:
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    chosen = {name: split_of(name) for name in splits} if len(splits) > 1 else dict.fromkeys(splits, "train")
    if "train" not in chosen.values():
        raise ConfigError(
            f"data.path: expected a train split, got {', '.join(splits)} in {where!r}; rename the one to train on"
        )
    pieces = tuple(
        Piece(split, f"{where} {name}", partial(saved_dataset, splits[name], f"{where} {name}"))
        for name, split in chosen.items()
        if split
    )
    return Source(f"datasets {fingerprint}", pieces, tuple(name for name, split in chosen.items() if not split))


def _looks_like_path(name: str) -> bool:
    """A hub id is `owner/name` or `name`; anything that a file system is needed for is a path."""
    path = Path(name)
    return (
        name.startswith((".", "/", "~"))
        or len(path.parts) > 2
        or bool(re.fullmatch(r"\.[A-Za-z]\w*", path.suffix))
        or (len(path.parts) == 2 and path.parent.is_dir())
    )


def _missing(path: Path) -> ConfigError:
    """The deepest folder that exists tells what could have been meant."""
    parent = next(p for p in path.absolute().parents if p.is_dir())
    wanted = path.absolute().relative_to(parent).parts[0]
    near = did_you_mean(wanted, (f.name for f in parent.iterdir() if not f.name.startswith(".")))
    mend = near if near.startswith("did you") else "check the path"
    return ConfigError(
        f"data.path: expected a file or folder, got {str(path)!r}, but {str(parent)!r} has no {wanted!r}; {mend}"
    )
