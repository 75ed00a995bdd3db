"""Parts: settings that make no sense are told apart, each in one line, and adapters know their halves."""

import pytest

from flexray.part_problems import problems
from flexray.parts import Anchors, Gate, Graft, Lora, Mixer, Part, Routed, adapters

LORA = Lora()


def lora(name, kind="lora", config=LORA):
    return Part(name, kind, "shared", config)


def routed(config):
    return Part("x", "routed", "shared", config)


def mixer(*over, name="mix"):
    return Part(name, "mixer", "private", Mixer(over))


def anchors(prompts=5, sharpness=0.5):
    return Part("anchors", "anchors", "private", Anchors(("one", "two"), prompts, sharpness=sharpness))


ONE, TWO = lora("one"), lora("two")
Q, WIDER = Lora(targets=("q",)), Lora(rank=16)
HALF = lora("x", "lora_a")
ROUTED = {
    key: Part("x", "routed", "shared", Routed(**{key: value}))
    for key, value in [("rank", 0), ("alpha", -1.0), ("dropout", 1.0)]
}
EXPERT = Part("expert", "expert", "private", Graft())
NAMES = "parts: expected names, each once and without a slash, got {}; give every part a name of its own"
HALVES = "parts: expected a lora_b part for every lora_a part, got {}; the i-th goes with the i-th"
OVER = "parts.mix.over: expected two or more adapters, each once, got {}; name parts of the kind lora, lora_a or lora_b"
START = "graft.start: expected copy with `gate.mode: {}`, got 'identity'; {}: set graft.start to copy, or gate.mode to add"
WRONG = [
    ((lora("x", config=Lora(rank=0)),), "lora.rank: expected at least 1, got 0; 8 is usual"),
    (
        (lora("x", "delta", Lora(targets=())),),
        "lora.targets: expected one or more of q, k, v and o, each once, got []; the default is [q, k, v]",
    ),
    ((routed(Routed(rank=0)),), "routed.rank: expected at least 1, got 0; 8 is usual"),
    ((routed(Routed(alpha=-1.0)),), "routed.alpha: expected a number above 0, got -1.0; twice the rank is usual"),
    ((routed(Routed(dropout=1.0)),), "routed.dropout: expected at least 0 and less than 1, got 1.0; use 0 for none"),
    ((ONE, ONE), NAMES.format("'one'")),
    ((lora("a/b"),), NAMES.format("'a/b'")),
    (
        (Part("x", "routed", "shared", LORA),),
        "parts.x: expected Routed options for the kind routed, got Lora; change one of them",
    ),
    ((HALF,), HALVES.format("['x'] and []")),
    ((lora("x", "lora_b"),), HALVES.format("[] and ['x']")),
    (
        (HALF, lora("y", "lora_b", WIDER)),
        f"parts.y: expected the options of its other half x, got {WIDER}; use the same for both",
    ),
    ((ONE, mixer("one")), OVER.format("['one']")),
    ((ONE, mixer("one", "one")), OVER.format("['one', 'one']")),
    ((ONE, TWO, mixer("one", "two", "no")), OVER.format("['one', 'two', 'no']")),
    ((HALF, lora("y", "lora_b"), mixer("x", "y")), OVER.format("['x', 'y']")),
    (
        (ONE, lora("two", config=Q), mixer("one", "two")),
        "parts.mix.over: expected adapters on the same layers, got ['one', 'two']; give them the same lora.targets",
    ),
    (
        (ONE, TWO, mixer("one", "two"), anchors()),
        "parts.anchors.over: expected adapters that nothing else weighs, got ['one', 'two']; "
        "leave them to one mixer or anchors",
    ),
    ((ONE, TWO, anchors(prompts=0)), "anchors.prompts: expected at least 1, got 0; 5 is usual"),
    (
        (ONE, TWO, anchors(sharpness=-1.0)),
        "anchors.sharpness: expected a number above 0, got -1.0; set anchors.toward for the other sign",
    ),
    (
        (Part("gate", "gate", "private", Gate("in_place", "closed")),),
        "gate.init: expected none with `gate.mode: in_place`, got 'closed'; drop it, or use another mode",
    ),
    (
        (EXPERT, Part("gate", "gate", "private", Gate("in_place"))),
        START.format("in_place", "the copy stands in for the expert, and is the same at first"),
    ),
    (
        (EXPERT, Part("gate", "gate", "private", Gate("mix"))),
        START.format("mix", "an expert of zero output would still take weight from the routed ones"),
    ),
]


@pytest.mark.parametrize(("parts", "problem"), WRONG)
def test_what_makes_no_sense_is_told_in_one_line(parts, problem):
    assert list(problems(parts)) == [problem]


RIGHT = [
    (ONE, TWO),
    (ONE, TWO, mixer("one", "two")),
    (ONE, lora("two", config=WIDER), mixer("two", "one")),  # the same layers, another rank
    (ONE, lora("two", config=Q), anchors()),  # rows are weighed in whatever layer
    (lora("x", "lora_a"), ONE, lora("y", "lora_b"), mixer("one", "y")),
    (Part("expert", "expert", "private", Graft(start="copy")), Part("gate", "gate", "private", Gate("in_place"))),
    (lora("folded", "delta"), Part("routed", "routed", "frozen", Routed())),
]


@pytest.mark.parametrize("parts", RIGHT)
def test_nothing_is_wrong_with_these(parts):
    assert not list(problems(parts))


def test_the_ith_half_goes_with_the_ith():
    a, b, c, d = lora("a", "lora_a"), lora("b", "lora_b"), lora("c", "lora_b"), lora("d", "lora_a")
    assert adapters((a, c, ONE, b, d)) == [(ONE, ONE), (a, c), (d, b)]
