"""The probe: multiple-choice questions, asked of every client's model to see what it has forgotten.

A question is asked as the rows of the data are (data.prompt), its choices are not listed: each is an answer whose likelihood
is taken, without an end mark. The prompt goes through the model once for all of its choices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexray.config import Experiment
from flexray.data.prompts import Encoder, fit, prompt_of
from flexray.data.readers import READERS
from flexray.data.rows import Row
from flexray.errors import ConfigError
from flexray.metric import Answered
from flexray.models.backbone import Backbone
from flexray.sim.local.generation import likelihoods, prefill

KEY = "evaluation.probe"
SUFFIXES = (".jsonl", ".json", ".parquet")
FORM = '{"question": "…", "choices": ["…", "…"], "answer": 0}'
Inside = Callable[..., AbstractContextManager[None]]
"""A model's view: `Seats.using` with its parts given; takes `starts`."""


@dataclass(frozen=True)
class Question:
    """A question; `number` is its place in the file, from 0, `answer` that of the right choice."""

    number: int
    text: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Probe:
    """Questions as tokens: of each its number in the file, prompt, choices, their lengths in bytes, the right one."""

    numbers: list[int]
    prompts: list[np.ndarray]
    choices: list[list[np.ndarray]]
    lengths: list[list[int]]
    answers: list[int]

    def ask(self, backbone: Backbone, inside: Inside, seats: int, batch: int) -> list[Answered]:
        """What each seat's model makes of all questions; `batch` choices in a forward, questions of like length together."""
        most = max(map(len, self.choices))
        nll_KQC = torch.full((seats, len(self.prompts), most), torch.inf, dtype=torch.float64)
        order = sorted(range(len(self.prompts)), key=lambda q: len(self.prompts[q]) + most * max(map(len, self.choices[q])))
        batch = max(1, batch // most)
        for i in range(0, len(order), batch):
            chosen = order[i : i + batch]
            prompts, choices = [self.prompts[q] for q in chosen] * seats, [self.choices[q] for q in chosen] * seats
            with inside(starts=torch.full((len(prompts),), max(map(len, prompts)), device=backbone.device)):
                found = likelihoods(backbone, prefill(backbone, prompts), choices)
            nll_KQC[:, chosen, : found.shape[1]] = found.view(seats, len(chosen), -1)
        lengths = torch.tensor([row + [1] * (most - len(row)) for row in self.lengths])
        return [Answered(nll_QC, lengths, torch.tensor(self.answers)) for nll_QC in nll_KQC]

    def save(self, file: Path) -> None:
        """As plain arrays."""
        tokens = [*self.prompts, *(tokens for row in self.choices for tokens in row)]
        np.savez(
            file, tokens=np.concatenate(tokens), ends=np.cumsum([len(t) for t in tokens]), numbers=self.numbers,
            each=[len(row) for row in self.choices], lengths=[n for row in self.lengths for n in row], answers=self.answers,
        )  # fmt: skip

    @staticmethod
    def load(file: Path) -> Probe:
        """What `save` wrote."""
        with np.load(file) as f:
            pieces = np.split(f["tokens"], f["ends"][:-1])
            n, cuts = len(f["numbers"]), np.cumsum(f["each"])[:-1].tolist()
            choices = [pieces[n:][a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
            lengths = [part.tolist() for part in np.split(f["lengths"], cuts)]
            return Probe(f["numbers"].tolist(), pieces[:n], choices, lengths, f["answers"].tolist())


def read(path: Path) -> list[Question]:
    """All questions of a file. Raises ConfigError on the first thing wrong."""
    if path.suffix.lower() not in SUFFIXES or not os.path.isfile(path):
        raise _wrong(f"a file ending in {', '.join(SUFFIXES)}", repr(str(path)), "check the path")
    found = []
    try:
        for where, row in READERS[path.suffix.lower()](path):
            found.append(_question(len(found), row, where))
    except ConfigError as e:  # what the readers say is about the data's own file
        raise ConfigError(*(p.replace("data.path:", f"{KEY}:", 1) for p in e.problems)) from None
    if not found:
        raise _wrong("questions", f"none in {path.name}", f"write one a line: {FORM}")
    return found


def encode(questions: list[Question], x: Experiment, encoder: Encoder) -> Probe:
    """The questions as tokens, at most evaluation.probe_rows of them."""
    limit = x.evaluation.probe_rows
    if limit is not None and limit < len(questions):
        rng = np.random.default_rng(np.random.SeedSequence([x.seed, 0x9B0BE]))
        questions = [questions[i] for i in sorted(rng.permutation(len(questions))[:limit].tolist())]
    ask = prompt_of(x.data.prompt, encoder)
    prompts = encoder.encode([ask(Row("", q.text, "", "", "", {})) for q in questions])
    texts = iter(encoder.encode([choice for q in questions for choice in q.choices]))
    choices = [[next(texts) for _ in q.choices] for q in questions]
    fitted = [_fitted(p, c, x.data.max_length) for p, c in zip(prompts, choices, strict=True)]
    lengths = [[len(choice.encode()) for choice in q.choices] for q in questions]
    return Probe(
        [q.number for q in questions], [p for p, _ in fitted], [c for _, c in fitted], lengths, [q.answer for q in questions]
    )


def _fitted(prompt: list[int], choices: list[list[int]], max_length: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The prompt is cut for the longest choice, so that all choices follow the same words."""
    longest = fit(prompt, max(choices, key=len), max_length)
    short = longest.tokens[: longest.response_start]
    return np.array(short, np.int32), [np.array(c[: max_length - len(short)], np.int32) for c in choices]


def _question(number: int, row: dict[str, Any], where: str) -> Question:
    for wrong in _problems(row):
        raise _wrong(f"{wrong[0]} in {where}", wrong[1], f"write {FORM}")
    return Question(number, row["question"], tuple(row["choices"]), row["answer"])


def _problems(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was expected, and what came."""
    for name in ("question", "choices", "answer"):
        if row.get(name) is None:
            yield f"a column {name!r}", f"the columns {', '.join(row) or 'none'}" if name not in row else "none"
    if not isinstance(row["question"], str) or not row["question"].strip():
        yield "text in the column 'question'", repr(row["question"])
    choices, answer = row["choices"], row["answer"]
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not texts or len(choices) < 2:
        yield "a list of at least two texts in the column 'choices'", repr(choices)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        yield f"the place of the right choice, 0 to {len(choices) - 1}, in the column 'answer'", repr(answer)


def _wrong(wanted: str, got: str, mend: str) -> ConfigError:
    return ConfigError(f"{KEY}: expected {wanted}, got {got}; {mend}")
