"""What scoring needs besides the corpus, in one folder of the cache: the tokenizer that reads answers, the probe's questions."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flexray import folder as folders
from flexray.config import Evaluation, Experiment
from flexray.errors import ConfigError
from flexray.metric import Metric
from flexray.models.tokenizer import Tokenizer
from flexray.sim.local import probe
from flexray.sim.local.probe import Probe

FORMAT = 1
"""Raise when the folder's layout or the making of questions changes."""
QUESTIONS = "questions.npz"


@dataclass(frozen=True)
class Kit:
    """A loaded kit."""

    tokenizer: Tokenizer
    probe: Probe | None


def prepare(x: Experiment, encoder: Tokenizer, cache: Path) -> Path | None:
    """The kit's folder, made unless the cache has it; None where no metric asks for one."""
    from filelock import FileLock

    metrics = [folders.load("metrics", name, "evaluation.metrics", x.plugins) for name in x.evaluation.metrics]
    if found := tuple(_problems(x.evaluation, metrics)):
        raise ConfigError(*found)
    if not any(m.needs_generation or m.needs_probe for m in metrics):
        return None
    questions = probe.read(x.evaluation.probe.expanduser()) if x.evaluation.probe else []
    content = [FORMAT, encoder.fingerprint, [(q.text, q.choices, q.answer) for q in questions]]
    content += [x.data.prompt, x.data.max_length, x.evaluation.probe_rows, x.seed if x.evaluation.probe_rows else 0]
    target = cache / "scoring" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            _make(target, encoder, probe.encode(questions, x, encoder) if questions else None)
    return target


def load(path: Path) -> Kit:
    """The kit of a prepared folder."""
    return Kit(Tokenizer(path), Probe.load(path / QUESTIONS) if (path / QUESTIONS).exists() else None)


def _make(target: Path, encoder: Tokenizer, questions: Probe | None) -> None:
    """Writes the folder beside its place and moves it there whole."""
    making = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        making.mkdir()
        encoder.save(making)
        if questions:
            questions.save(making / QUESTIONS)
        making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _problems(x: Evaluation, metrics: list[type[Metric]]) -> Iterator[str]:
    """What is missing, and what nothing would look at."""
    asks = any(m.needs_probe for m in metrics)
    if asks and x.probe is None:
        yield f"evaluation.probe: expected a file of questions for the metrics {list(x.metrics)}, got none; write {probe.FORM} a line"
    if x.probe is not None and not asks:
        yield f"evaluation.probe: expected none without a metric that asks it, got {str(x.probe)!r}; add choice to evaluation.metrics"
    if not any(m.needs_generation for m in metrics):
        for key, usual in (("max_new_tokens", Evaluation().max_new_tokens), ("generate_rows", None)):
            if (got := getattr(x, key)) != usual:
                yield f"evaluation.{key}: expected none without a metric that generates, got {got}; add rouge to evaluation.metrics"
