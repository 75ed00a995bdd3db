"""Rows to prompt and response tokens. The loss is on the response only: the output and the end-of-sequence token."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

from flexray.data.rows import Row

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
"""The prompts of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca), to the letter."""


class Encoder(Protocol):
    """What data needs of a tokenizer."""

    @property
    def eos(self) -> int:
        """The token that ends a response."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes a text's tokens or the chat template."""
        ...

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, no special tokens added."""
        ...

    def chat(self, messages: list[dict]) -> str:
        """The messages in the tokenizer's template, up to where the answer begins; ConfigError when it has none."""
        ...


class Cut(IntEnum):
    """What a row had to lose to fit."""

    NOTHING = 0
    PROMPT = 1
    RESPONSE = 2


@dataclass(frozen=True)
class Tokens:
    """One row. No tokens at all where there is no response to learn from."""

    tokens: list[int]
    response_start: int
    cut: Cut


NO_RESPONSE = Tokens([], 0, Cut.NOTHING)


def prompt_of(kind: Literal["alpaca", "chat"], encoder: Encoder) -> Callable[[Row], str]:
    """How a row is asked."""
    return _alpaca if kind == "alpaca" else lambda row: encoder.chat([{"role": "user", "content": _question(row)}])


def tokenise(rows: Sequence[Row], kind: Literal["alpaca", "chat"], max_length: int, encoder: Encoder) -> Iterator[Tokens]:
    """Each row's tokens, at most max_length of them."""
    ask = prompt_of(kind, encoder)
    usable = [row for row in rows if row.output.strip()]
    pairs = zip(encoder.encode([ask(row) for row in usable]), encoder.encode([row.output for row in usable]), strict=True)
    for row in rows:
        if row.output.strip():
            prompt, output = next(pairs)
            yield fit(prompt, [*output, encoder.eos], max_length)
        else:
            yield NO_RESPONSE


def fit(prompt: list[int], response: list[int], max_length: int) -> Tokens:
    """The prompt's middle goes first: its head holds the instruction, its tail the sign to answer.

    The prompt keeps a quarter of max_length, if it has so many tokens; a response too long for the rest loses its end,
    the end-of-sequence token included, for nobody should learn to stop there.
    """
    if len(prompt) + len(response) <= max_length:
        return Tokens([*prompt, *response], len(prompt), Cut.NOTHING)
    kept = max(max_length - len(response), min(len(prompt), max_length // 4))
    tail = kept // 2
    short = [*prompt[: kept - tail], *prompt[len(prompt) - tail :]] if kept < len(prompt) else prompt
    room = max_length - len(short)
    cut = Cut.RESPONSE if len(response) > room else Cut.PROMPT
    return Tokens([*short, *response[:room]], len(short), cut)


def _alpaca(row: Row) -> str:
    template = ALPACA_WITH_INPUT if row.input.strip() else ALPACA
    return template.format(instruction=row.instruction, input=row.input)


def _question(row: Row) -> str:
    return f"{row.instruction}\n\n{row.input}" if row.input.strip() else row.instruction
