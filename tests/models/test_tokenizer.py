import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from flexray.data.builtin import public_rows
from flexray.data.prompts import ALPACA, ALPACA_WITH_INPUT
from flexray.errors import ConfigError
from flexray.models import tiny
from flexray.models.tokenizer import Tokenizer, build


@pytest.fixture(scope="module")
def built_in() -> Tokenizer:
    return Tokenizer(tiny.folder())


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build(["the cat and the dog"] * 20, 340).save_pretrained(folder)
    return folder


@settings(max_examples=200, deadline=None)
@given(st.text().filter(lambda text: "<|" not in text))
def test_any_text_goes_there_and_back(built_in, text):
    assert built_in.decode(built_in.encode([text])) == [text]


@pytest.mark.parametrize(
    "text", ["", " ", "\r\n\t ", "naïve 東京 🙂‍↔️", "\x00\x7f", "12345", "### Response:", ALPACA, "<|en d|>"]
)
def test_awkward_texts_too(built_in, small, text):
    assert built_in.decode(built_in.encode([text])) == [text]
    assert Tokenizer(small).decode(Tokenizer(small).encode([text])) == [text]


def test_no_special_tokens_are_added(built_in):
    assert built_in.eos not in built_in.encode(["Paris"])[0]
    assert built_in.encode([]) == []


def test_special_tokens_are_left_out_of_decoded_text(built_in):
    assert built_in.decode([[*built_in.encode(["Paris"])[0], built_in.eos]]) == ["Paris"]


def test_a_special_tokens_name_is_that_token_as_everywhere_in_transformers(built_in):
    assert built_in.encode(["Hi<|end|>"])[0][-1] == built_in.eos


def test_the_prompt_around_a_row_costs_next_to_nothing(built_in):
    asked = {"instruction": "Add 2 and 3.", "input": "x"}
    bare, plain, long = map(
        len, built_in.encode([asked["instruction"], ALPACA.format(**asked), ALPACA_WITH_INPUT.format(**asked)])
    )
    assert plain == bare + 3
    assert long == bare + 4 + 1


def test_rows_of_the_built_in_corpus_are_short(built_in):
    rows = public_rows(0, 500)
    lengths = [len(t) for t in built_in.encode([ALPACA_WITH_INPUT.format(**row) + row["output"] for row in rows])]
    assert max(lengths) <= 60


def test_the_chat_template_ends_where_the_answer_begins(built_in):
    asked = [{"role": "user", "content": "Hi"}]
    assert built_in.chat(asked) == "<|user|>Hi<|model|>"
    answered = [*asked, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "Bye"}]
    assert built_in.chat(answered) == "<|user|>Hi<|model|>Ho<|end|><|user|>Bye<|model|>"


def test_no_chat_template_is_a_config_error(small, tmp_path):
    inner = PreTrainedTokenizerFast.from_pretrained(small)
    inner.chat_template = None
    inner.save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"data.prompt: expected a tokenizer with a chat template .*; set data.prompt to alpaca"
    ):
        Tokenizer(tmp_path).chat([{"role": "user", "content": "Hi"}])


def test_no_tokenizer_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"model.path: expected a model with a tokenizer, got '.*'; check the path"):
        Tokenizer(tmp_path)


def test_no_end_of_sequence_token_is_a_config_error(small, tmp_path):
    inner = PreTrainedTokenizerFast.from_pretrained(small)
    inner.eos_token = None
    inner.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model.path: expected a tokenizer with an end-of-sequence token"):
        Tokenizer(tmp_path)


def test_the_fingerprint_follows_tokens_and_template(built_in, small, tmp_path):
    first = Tokenizer(small)
    assert first.fingerprint == Tokenizer(small).fingerprint != built_in.fingerprint
    inner = PreTrainedTokenizerFast.from_pretrained(small)
    inner.chat_template = "{{ messages }}"
    inner.save_pretrained(tmp_path)
    assert Tokenizer(tmp_path).fingerprint != first.fingerprint


def test_building_is_a_pure_function_of_the_texts(small, tmp_path):
    build(["the cat and the dog"] * 20, 340).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (small / "tokenizer.json").read_bytes()


def test_the_vocabulary_is_at_most_what_was_asked_for(small):
    assert 256 < Tokenizer(small).vocabulary <= 340
    assert len(Tokenizer(small).encode(["the cat"])[0]) < len("the cat")


def test_a_plain_tokenizer_loads_without_torch():
    code = (
        "import sys; from flexray.models.tokenizer import Tokenizer; from flexray.models.tiny import folder; "
        "Tokenizer(folder()).encode(['a']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_broken_tokenizer_is_a_config_error(small, tmp_path):
    Tokenizer(small).save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"model.path: expected a model with a tokenizer, got '.*'; check the path"):
        Tokenizer(tmp_path)
