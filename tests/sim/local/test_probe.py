"""The probe: what a file of questions must look like, and how questions become tokens."""

import json

import pytest

from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.sim.local import probe
from flexray.sim.local.probe import Probe, Question
from tests.data.bytes_encoder import Bytes

GOOD = {"question": "2 + 2?", "choices": ["4", "five"], "answer": 0, "subject": "sums"}


@pytest.fixture
def file(tmp_path):
    def write(*rows: dict, name: str = "questions.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


def test_a_good_file(file):
    rows = [GOOD, {"question": "Colour of snow?", "choices": ["red", "white", "blue"], "answer": 1}]
    assert probe.read(file(*rows)) == [
        Question(0, "2 + 2?", ("4", "five"), 0),
        Question(1, "Colour of snow?", ("red", "white", "blue"), 1),
    ]
    array = file(name="questions.json")
    array.write_text(json.dumps(rows))
    assert len(probe.read(array)) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"question": "  "}, "text in the column 'question' in questions.jsonl, line 2, got '  '"),
        ({"question": None}, "a column 'question' in questions.jsonl, line 2, got none"),
        ({"choices": ["one"]}, "a list of at least two texts in the column 'choices' in questions.jsonl, line 2, got ['one']"),
        ({"choices": ["one", 2]}, "a list of at least two texts"),
        ({"choices": "AB"}, "a list of at least two texts"),
        ({"answer": 2}, "the place of the right choice, 0 to 1, in the column 'answer' in questions.jsonl, line 2, got 2"),
        ({"answer": "A"}, "the place of the right choice"),
        ({"answer": True}, "the place of the right choice"),
    ],
)
def test_wrong_questions_are_refused_with_their_line(file, wrong, said):
    with pytest.raises(ConfigError) as e:
        probe.read(file(GOOD, {**GOOD, **wrong}))
    assert str(e.value).startswith("evaluation.probe: expected ") and said in str(e.value)
    assert 'write {"question": "…", "choices": ["…", "…"], "answer": 0}' in str(e.value)


def test_other_columns_broken_files_and_no_files_are_refused(file, tmp_path):
    with pytest.raises(
        ConfigError, match=r"evaluation\.probe: expected a column 'choices' .*got the columns question, options"
    ):
        probe.read(file({"question": "?", "options": ["a", "b"]}))
    with pytest.raises(ConfigError, match=r"evaluation\.probe: expected valid JSON in broken\.jsonl, line 1"):
        broken = tmp_path / "broken.jsonl"
        broken.write_text("{")
        probe.read(broken)
    with pytest.raises(ConfigError, match=r"evaluation\.probe: expected questions, got none in empty\.jsonl"):
        probe.read(file(name="empty.jsonl"))
    for name in ("nowhere.jsonl", "questions.csv"):
        with pytest.raises(ConfigError, match=r"evaluation\.probe: expected a file ending in \.jsonl, \.json, \.parquet"):
            probe.read(tmp_path / name)


def test_prompts_are_the_datas_and_choices_bare(tmp_path):
    questions = [Question(0, "Q?", ("é", "no way"), 1), Question(3, "Longer question?", ("a", "b", "c"), 0)]
    made = probe.encode(questions, Experiment(), Bytes())
    assert made.numbers == [0, 3] and made.answers == [1, 0]
    assert bytes(made.prompts[0].tolist()).decode().endswith("### Instruction:\nQ?\n\n### Response:")
    texts = [[bytes(c.tolist()).decode() for c in row] for row in made.choices]
    assert texts == [["é", "no way"], ["a", "b", "c"]]  # without an end mark
    assert made.lengths == [[2, 6], [1, 1, 1]]
    made.save(tmp_path / "q.npz")
    again = Probe.load(tmp_path / "q.npz")
    assert (again.numbers, again.lengths, again.answers) == (made.numbers, made.lengths, made.answers)
    for one, two in zip([again.prompts, *again.choices], [made.prompts, *made.choices], strict=True):
        assert [tokens.tolist() for tokens in one] == [tokens.tolist() for tokens in two]


def test_all_choices_follow_the_same_prompt_cut_for_the_longest():
    x = Experiment(data={"max_length": 40})
    made = probe.encode([Question(0, "Q?", ("x", "y" * 12), 0)], x, Bytes())
    assert len(made.prompts[0]) == 40 - 12
    assert [len(c) for c in made.choices[0]] == [1, 12]


def test_at_most_so_many_chosen_by_the_seed():
    questions = [Question(i, f"Q{i}?", ("a", "b"), 0) for i in range(20)]

    def numbers(seed: int, limit: int | None) -> list[int]:
        x = Experiment(seed=seed, evaluation={"probe": "q.jsonl", "probe_rows": limit})
        return probe.encode(questions, x, Bytes()).numbers

    assert numbers(0, None) == numbers(0, 20) == list(range(20))
    assert numbers(0, 5) == sorted(numbers(0, 5)) == numbers(0, 5) and len(numbers(0, 5)) == 5
    assert numbers(0, 5) != numbers(1, 5)
