"""Models out of a finished run: a client's own, the shared one, the frozen base, in folders that transformers loads by itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexray.errors import expected
from flexray.folder import PACKAGE
from flexray.models import checkpoint, saving
from flexray.models.tokenizer import Tokenizer
from flexray.serve import adapter, card
from flexray.serve.card import Card
from flexray.serve.finished import Finished
from flexray.serve.fold import Folded, fold
from flexray.sim.planning.places import possible
from flexray.state import State

Kind = Literal["plain", "custom", "adapter"]
CODE = PACKAGE / "serve" / "exported" / f"{saving.CODE}.py"


@dataclass(frozen=True)
class Exported:
    """kind: the family's plain architecture, one with code of its own in the folder, or a PEFT adapter."""

    path: Path
    kind: Kind
    bytes: int

    @property
    def how(self) -> str:
        """The Python line that loads it."""
        if self.kind == "adapter":
            return f'PeftModel.from_pretrained(base, "{self.path}")'
        trust = ", trust_remote_code=True" if self.kind == "custom" else ""
        return f'AutoModelForCausalLM.from_pretrained("{self.path}"{trust})'


def asked_for(out: Path, client: str | None, shared: bool, base: bool) -> str:
    """Which of the three is wanted, before the run is opened."""
    check_out(out)
    given = [name for name, there in (("--client", client is not None), ("--shared", shared), ("--base", base)) if there]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise expected("--client", "one of a client's name, --shared and --base", got, "name one of the three")
    return "shared" if shared else "base" if base else "personal"


def export(run: Finished, out: Path, client: str | None = None, what: str = "personal", as_adapter: bool = False) -> Exported:
    """what: `personal` (of `client`), `shared` or `base`. Raises ConfigError where a state cannot be expressed so, before anything
    is written."""
    check_out(out)
    assert (what == "personal") == (client is not None)
    state = {"shared": run.shared, "base": State}[what]() if client is None else run.personal(client)
    told = card.of_run(run, client, what)
    if as_adapter:
        tensors, settings = adapter.of(run, state)
        return write(run, out, told, "adapter", lambda folder: adapter.write(folder, tensors, settings))
    return save(run, out, told, fold(run.backbone, run.job.algorithm.parts, state))


def save(run: Finished, out: Path, told: Card, folded: Folded) -> Exported:
    """A folded model's folder."""
    if not saving.is_known(run.backbone):
        mend = "export with --adapter, or use `flexray generate`"
        raise expected(
            "model.path", "a class of transformers' own, to export its model", type(run.backbone.model).__name__, mend
        )
    if not folded.told:
        return write(run, out, told, "plain", lambda folder: saving.save_plain(run.backbone, folded.weights, folder))
    code = CODE.read_text(encoding="utf-8")
    return write(
        run, out, told, "custom",
        lambda folder: saving.save_custom(run.backbone, folded.weights, folded.told, folded.beside, code, folder),
    )  # fmt: skip


def write(run: Finished, out: Path, told: Card, kind: Kind, save: Callable[[Path], None]) -> Exported:
    """The folder, whole or absent, with the tokenizer and a card."""
    model = run.experiment.model
    with whole(out) as folder:
        save(folder)
        with checkpoint.quiet():
            Tokenizer(checkpoint.locate(model), model.revision, model.trust_remote_code).save(folder)
        (folder / "README.md").write_text(told.text(kind, out.name), encoding="utf-8")
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return Exported(out, kind, size)


def check_out(out: Path) -> None:
    """Nothing that is there already is written to."""
    if os.path.isfile(out):
        raise expected("--out", "a folder", f"the file {out}", "name another")
    possible(out, "--out")
    there = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    if out.exists() and any(out.iterdir()):
        raise expected("--out", "a new or empty folder", str(out), "name another")
    if not os.access(there if there != out.absolute() else there.parent, os.W_OK):
        raise expected("--out", "a folder that may be written to", str(there), "name another")


def _as_usual(folder: Path) -> None:
    """Every file may be read by whom new files may be: safetensors are written for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder to write into, which is moved to its place at the end, or not there at all."""
    making = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}")
    try:
        making.mkdir(parents=True)
    except OSError as e:
        raise expected("--out", "a folder that can be made", f"{out} ({e.strerror})", "name another") from None
    try:
        yield making
        _as_usual(making)
        if out.exists():
            out.rmdir()
        making.rename(out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
