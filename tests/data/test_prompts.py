"""Prompts to the letter, the loss on the response only, and what a row loses when it is too long."""

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from flexray.data.options import SHORTEST
from flexray.data.prompts import Cut, Tokens, fit, tokenise
from flexray.data.rows import Row
from tests.data.bytes_encoder import Bytes, text


def row(instruction="Do it.", context="", output="Done."):
    return Row("train", instruction, context, output, "", {})


def one(r, kind: Literal["alpaca", "chat"] = "alpaca", max_length=1000) -> Tokens:
    (found,) = tokenise([r], kind, max_length, Bytes())
    return found


def parts(t: Tokens) -> tuple[str, str]:
    return text(t.tokens[: t.response_start]), text(t.tokens[t.response_start :])


def test_alpaca_without_input():
    assert parts(one(row())) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nDo it.\n\n### Response:",
        "Done.§",
    )


def test_alpaca_with_input():
    assert parts(one(row(context="Here."))) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nDo it.\n\n### Input:\nHere.\n\n### Response:",
        "Done.§",
    )


def test_braces_in_the_data_are_only_text():
    assert "\n{input} {0}\n" in parts(one(row(instruction="{input} {0}")))[0]


def test_chat_uses_the_tokenizers_template():
    assert parts(one(row(), "chat")) == ("<user>Do it.<model>", "Done.§")
    assert parts(one(row(context="Here."), "chat")) == ("<user>Do it.\n\nHere.<model>", "Done.§")


def test_rows_without_a_response_have_no_tokens():
    found = list(tokenise([row(output=""), row(), row(output=" \n")], "chat", 100, Bytes()))
    assert [len(t.tokens) for t in found] == [0, 25, 0]


def test_the_prompt_loses_its_middle_first():
    # 6 + 4 tokens into 7: the prompt keeps 3, two of its head and one of its tail.
    assert fit([1, 2, 3, 4, 5, 6], [7, 8, 9, 0], 7) == Tokens([1, 2, 6, 7, 8, 9, 0], 3, Cut.PROMPT)
    assert fit([1, 2, 3, 4], [7, 8, 9, 0], 8) == Tokens([1, 2, 3, 4, 7, 8, 9, 0], 4, Cut.NOTHING)


def test_the_response_loses_its_end_last():
    # A quarter of 8 is kept for the prompt; 6 of the response's 9 tokens fit.
    assert fit([1, 2, 3, 4], list(range(10, 19)), 8) == Tokens([1, 4, 10, 11, 12, 13, 14, 15], 2, Cut.RESPONSE)
    assert fit([1], list(range(10, 19)), 8) == Tokens([1, *range(10, 17)], 1, Cut.RESPONSE)


@given(st.integers(0, 60), st.integers(1, 60), st.integers(SHORTEST, 40))
def test_fit_keeps_what_it_can(prompt, response, max_length):
    t = fit(list(range(100, 100 + prompt)), list(range(200, 200 + response)), max_length)
    head, tail = t.tokens[: t.response_start], t.tokens[t.response_start :]
    assert len(t.tokens) == min(max_length, prompt + response)
    assert tail == list(range(200, 200 + len(tail))) and len(tail) >= min(response, max_length - max_length // 4)
    assert len(head) >= min(prompt, max_length // 4) and set(head) <= set(range(100, 100 + prompt))
    assert head == sorted(head)
    if len(head) > 1:
        assert (head[0], head[-1]) == (100, 99 + prompt)
    assert t.cut == (Cut.RESPONSE if len(tail) < response else Cut.PROMPT if len(head) < prompt else Cut.NOTHING)
