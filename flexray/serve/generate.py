"""Answers of the models of a finished run to the same prompts, side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flexray.data.prompts import prompt_of
from flexray.data.rows import Row
from flexray.errors import expected
from flexray.models import checkpoint
from flexray.models.tokenizer import Tokenizer
from flexray.serve import joined
from flexray.serve.finished import Finished
from flexray.sim.local.generation import greedy
from flexray.state import State, part_of

BASE, SHARED = "frozen base", "shared only"


@dataclass(frozen=True)
class Answer:
    """What one model says to one prompt."""

    prompt: str
    model: str
    text: str


@dataclass(frozen=True)
class Asking:
    """How: `context` is the row's input, beside each prompt; greedily, or with a temperature above 0 by a seed."""

    context: str = ""
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise expected("--max-new-tokens", "at least 1", self.max_new_tokens, "64 is usual")
        if not 0 <= self.temperature < float("inf"):
            raise expected("--temperature", "0 (greedy) or more", self.temperature, "0.7 is usual")


def read(prompts: Sequence[str]) -> list[str]:
    """The prompts, with what stands in standard input, whole, for `-`, and where there is none."""
    if not prompts and sys.stdin.isatty():
        raise expected("prompt", "a text", "none", "write it in quotes, or pipe one in")
    return [sys.stdin.read().strip() if prompt == "-" else prompt for prompt in prompts or ["-"]]


def models(
    run: Finished, clients: Sequence[str] = (), every: bool = False, shared: bool = False, base: bool = False
) -> dict[str, State]:
    """The states to ask, by what they are called; every: all clients, those who joined too."""
    names = [*run.names, *joined.names(run.path)] if every else list(dict.fromkeys(clients))
    if not (names or shared or base):
        raise expected("--client", "a client's name, --all, --shared or --base", "none of them", "name at least one")
    found = {BASE: State()} if base else {}
    found |= {SHARED: run.shared()} if shared else {}
    return found | {name: run.personal(name) for name in names}


def generate(run: Finished, prompts: Sequence[str], asked: Mapping[str, State], how: Asking | None = None) -> list[Answer]:
    """Every model's answer to every prompt, asked as the rows of the run's data are."""
    how = how or Asking()
    if not prompts or not all(p.strip() for p in prompts):
        raise expected("prompt", "a text", list(prompts), "write it in quotes")
    model = run.experiment.model
    tokenizer = Tokenizer(checkpoint.locate(model), model.revision, model.trust_remote_code)
    ask = prompt_of(run.experiment.data.prompt, tokenizer)
    rows = [np.array(t, np.int32) for t in tokenizer.encode([ask(Row("test", p, how.context, "", "", {})) for p in prompts])]
    limits = [_room(run, len(row), how) for row in rows]
    answers = []
    for name, state in asked.items():
        ends = _ends(run, tokenizer)
        said = [_said(run, state, row, ends, replace(how, max_new_tokens=most)) for row, most in zip(rows, limits, strict=True)]
        answers += [Answer(p, name, text) for p, text in zip(prompts, tokenizer.decode(said), strict=True)]
    return answers


def _room(run: Finished, prompt: int, how: Asking) -> int:
    """How many tokens an answer may have: no model counts further than its positions."""
    positions = getattr(run.backbone.model.config, "max_position_embeddings", None) or prompt + how.max_new_tokens
    if prompt >= positions:
        raise expected("prompt", f"fewer than the model's {positions} tokens", f"{prompt}", "shorten it")
    return min(how.max_new_tokens, positions - prompt)


def _said(run: Finished, state: State, prompt: np.ndarray, ends: list[int], how: Asking) -> list[int]:
    """Each prompt by itself, so that an answer does not depend on what else is asked."""
    run.seats.put({name: t[None] for name, t in state.items()})
    starts = torch.tensor([len(prompt)], device=run.backbone.device)
    with run.seats.using({part_of(name) for name in state}, starts=starts):
        return greedy(run.backbone, [[prompt]], ends, how.max_new_tokens, shrink=False, pick=_sampler(how))[0][0]


def _sampler(how: Asking) -> Callable[[Tensor], Tensor] | None:
    """A choice by chance, the same for the same seed whoever is asked; None for the likeliest."""
    if how.temperature == 0:
        return None
    generator = torch.Generator().manual_seed(how.seed)

    def pick(logits_NV: Tensor) -> Tensor:
        shares = (logits_NV.cpu() / how.temperature).softmax(-1)
        return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits_NV.device)

    return pick


def _ends(run: Finished, tokenizer: Tokenizer) -> list[int]:
    said = getattr(run.backbone.model.config, "eos_token_id", None)
    return sorted({tokenizer.eos, *(said if isinstance(said, list) else [] if said is None else [said])})
