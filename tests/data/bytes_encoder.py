"""A tokenizer of bytes: token = byte, 256 ends a response. And where real data lies."""

from collections.abc import Iterable
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets of ../shared/data, which are not here")


class Bytes:
    eos = 256
    vocabulary = 257
    fingerprint = "bytes"

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def chat(self, messages: list[dict]) -> str:
        return f"<user>{messages[0]['content']}<model>"


def text(tokens: Iterable[int]) -> str:
    """Back to text, with § for the end of a response."""
    return "".join("§" if t == 256 else chr(t) for t in tokens)
