"""Clients who joined a finished run, in its folder `joined/`: one folder for each, readable by its owner only.

joined.json (name, data, steps, scores, which rows), rows.arrow (its rows, tokenised), served.safetensors (what the client serves with),
private.safetensors (what it owns).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from flexray.data.clients import Client
from flexray.data.corpus import Corpus
from flexray.errors import expected
from flexray.folder import digest
from flexray.sim import run_files
from flexray.sim.private import at_rest
from flexray.sim.private.sealed import Seal
from flexray.state import ClientState, State

FOLDER, SERVED, OWNED = "joined", "served.safetensors", "private.safetensors"
KEYS = ("name", "data", "steps", "scores", "rows")


def names(run: Path) -> dict[str, Path]:
    """Who joined, and their folders."""
    found = sorted((run / FOLDER).glob("*/joined.json"))
    return {run_files.read_json(file, KEYS)["name"]: file.parent for file in found if not file.parent.name.startswith(".")}


def told(run: Path, name: str) -> dict[str, Any]:
    """What joined.json says."""
    return run_files.read_json(names(run)[name] / "joined.json", KEYS)


def served(run: Path, name: str, seal: Seal | None = None) -> State:
    """What a client who joined serves with; no seat axis. seal: the run's, if its private state is encrypted."""
    file = names(run)[name] / SERVED
    try:
        return at_rest.read(file, f"{name} {SERVED}", seal)
    except (at_rest.DamagedError, OSError) as e:
        raise expected(
            "run", f"what {name} serves with, as it was written", str(file), f"join it anew, with --again ({e})"
        ) from None


def rows(run: Path, name: str) -> tuple[Corpus, Client]:
    """A client's rows, and which it trains on, tunes by, and is scored on."""
    told_rows = told(run, name)["rows"]
    splits = {split: np.array(numbers, np.int64) for split, numbers in told_rows.items()}
    return Corpus(names(run)[name] / "rows.arrow"), Client(name, **splits, dropped=0, labels={})


def keep(
    run: Path, about: dict[str, Any], client: Client, corpus: Path, serves: State, owns: ClientState, seal: Seal | None = None
) -> Path:
    """Puts a newcomer's folder in its place, whole, over one of the same name."""
    about = {**about, "rows": {split: getattr(client, split).tolist() for split in ("train", "valid", "test")}}
    name = str(about["name"])
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60]
    place = names(run).get(name, run / FOLDER / f"{safe}-{digest(name)[:8]}")
    making, before = (place.with_name(f".{place.name}.{os.getpid()}{end}") for end in ("", ".before"))
    making.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        making.mkdir(mode=0o700)
        owned = (("weights", owns.weights), ("memory", owns.memory))
        for file, tensors in ((SERVED, serves), (OWNED, {f"{kind}|{n}": t for kind, state in owned for n, t in state.items()})):
            at_rest.write(making / file, tensors, about=f"{name} {file}", seal=seal)
        shutil.copyfile(corpus, making / "rows.arrow")
        (making / "joined.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if place.exists():
            place.rename(before)
        making.rename(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
    return place
