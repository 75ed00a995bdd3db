"""Text to tokens and back, through a model's own tokenizer; and the making of the built-in one."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from flexray.errors import ConfigError, expected

END, PAD, USER, MODEL = "<|end|>", "<|pad|>", "<|user|>", "<|model|>"
PREAMBLES = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
)
HEADINGS = ("\n\n### Instruction:\n", "\n\n### Input:\n", "\n\n### Response:")
PIECES = r"\p{L}+| ?\p{L}+| ?\p{N}|[^\S\r\n]?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"  # words, single digits, marks, blanks
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", ".model", ".tiktoken", "tekken.json")
"""Ends of the names of files with one of which every tokenizer comes; without, transformers makes an empty one."""
KNOWN = "Below is an instruction that describes a task."
PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
CHAT = (
    "{% for m in messages %}{{ '<|' + ('model' if m['role'] == 'assistant' else 'user') + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|model|>' }}{% endif %}"
)


class Tokenizer:
    """A tokenizer loaded from a folder or a hub id; what `flexray.data` needs of one, and decoding.

    eos: the token that ends a response. vocabulary: how many tokens there are. fingerprint: changes with anything that
    changes the tokens of a text or the chat template.
    """

    def __init__(self, path: str | Path, revision: str | None = None, trust_remote_code: bool = False, key: str = "model.path"):
        """`key`: the config key to blame."""
        self._inner = _load(str(path), revision, trust_remote_code, key)
        if self._inner.eos_token_id is None:
            raise expected(key, "a tokenizer with an end-of-sequence token", str(path), "set its eos_token")
        self.eos: int = self._inner.eos_token_id
        self.vocabulary: int = len(self._inner)
        self.fingerprint: str = _fingerprint(self._inner)
        if not any(self.encode([KNOWN])):
            raise expected(key, "a tokenizer that knows some text", str(path), "check its tokenizer.json: it has no vocabulary")

    @property
    def highest(self) -> int:
        """The highest number of a token."""
        return max(self._inner.get_vocab().values())

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, no special tokens added."""
        return self._inner(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []

    def decode(self, rows: Iterable[Iterable[int]]) -> list[str]:
        """Text of each row, special tokens left out."""
        return [self._inner.decode(list(row), skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in rows]

    def chat(self, messages: list[dict]) -> str:
        """The messages in the tokenizer's own chat template, up to where the model's answer begins."""
        if not self._inner.chat_template:
            raise ConfigError(
                "data.prompt: expected a tokenizer with a chat template for 'chat', got one without; set data.prompt to alpaca"
            )
        try:
            return self._inner.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as e:  # a template is a program of the model's author, run where it can reach nothing
            reason = (str(e).strip() or type(e).__name__).splitlines()[0]
            mend = f"mend the template ({reason[:200]}), or set data.prompt to alpaca"
            raise expected("data.prompt", "a chat template that can be filled in", type(e).__name__, mend) from e

    def save(self, folder: Path) -> None:
        self._inner.save_pretrained(folder)


def build(texts: Iterable[str], vocabulary: int):
    """A byte-level BPE tokenizer of at most so many tokens, learnt from texts; a pure function of them.

    Any text goes there and back unchanged, but for the names of the four special tokens. The Alpaca prompt's fixed
    sentences and headings are one token each, so that they cost a small model next to nothing.
    """
    from tokenizers import AddedToken, Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Raw
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    raw = Raw(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raw.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(PREAMBLES) - len(HEADINGS),
        special_tokens=[END, PAD, USER, MODEL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(text, normalized=False) for text in (*PREAMBLES, *HEADINGS)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=PAD, chat_template=CHAT)


def _load(path: str, revision: str | None, trust_remote_code: bool, key: str):
    if Path(path).is_dir() and not any(f.name.endswith(VOCABULARIES) for f in Path(path).iterdir()):
        mend = "check the path or add its tokenizer.json, which `save_pretrained` writes"
        raise expected(key, "a model with a tokenizer", path, mend)
    try:
        if _is_plain(Path(path)):
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(path)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as e:  # no such folder or id, no network, broken files: transformers raises many kinds
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise expected(key, "a model with a tokenizer", path, f"check the path or add the tokenizer ({reason})") from e


def _is_plain(folder: Path) -> bool:
    """Whether its files say all: then neither the model's config nor torch is needed, which saves a second."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return (folder / "tokenizer.json").exists() and settings.get("tokenizer_class") in PLAIN
    except (OSError, ValueError):
        return False


def _fingerprint(inner) -> str:
    parts = [inner.chat_template or "", str(inner.eos_token_id)]
    fast = getattr(inner, "backend_tokenizer", None)
    parts.append(fast.to_str() if fast is not None else repr((type(inner).__name__, sorted(inner.get_vocab().items()))))
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
